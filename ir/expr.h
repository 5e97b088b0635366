// A scalar float32 expression over named variables: what a fused pointwise op or an epilogue
// computes per element.
//
//   sum := product (('+'|'-') product)*     product := unary (('*'|'/') unary)*
//   unary := '-' unary | atom               atom := number | variable | function(sum, ...) | (sum)
//   functions: silu gelu gelu_tanh quick_gelu relu sigmoid softplus tanh exp sqrt rsqrt abs (one
//              argument), min max (two), clamp(x, low, high)
//
// Held as postfix, so that evaluation needs no recursion. The same expression becomes CUDA text in
// codegen, runs blockwise in runtime/host, and element by element in ir/reference: one meaning,
// three executions. gelu is the exact erf form, gelu_tanh the tanh approximation, quick_gelu x *
// sigmoid(1.702 x), softplus log(1 + exp(x)).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

class Expr {
 public:
  enum class Code : uint8_t {
    constant,
    variable,
    add,
    sub,
    mul,
    div,
    neg,
    silu,
    gelu,
    gelu_tanh,
    quick_gelu,
    relu,
    sigmoid,
    softplus,
    tanh,
    exp,
    sqrt,
    rsqrt,
    abs,
    min,
    max,
    clamp,
  };
  struct Node {
    Code code;
    float value = 0;   // constant
    int variable = 0;  // index into variables()
  };

  Expr() = default;
  /// Throws UserError with the column on a syntax error; depth and length are bounded.
  static Expr parse(std::string_view text);

  /// Canonical text: minimal parentheses; parse(to_string()) is equal to *this.
  std::string to_string() const;
  bool empty() const { return nodes_.empty(); }
  /// In order of first use.
  const std::vector<std::string>& variables() const { return variables_; }
  /// Postfix order.
  std::span<const Node> nodes() const { return nodes_; }
  /// Greatest number of values alive at once while evaluating.
  int stack_depth() const;

  /// `values[i]` belongs to variables()[i].
  float evaluate(std::span<const float> values) const;
  /// One CUDA C++ expression; `names[i]` replaces variables()[i]. Functions are called as
  /// shunt::silu(x) and so on.
  std::string to_cuda(std::span<const std::string> names) const;
  /// This expression with `variable` replaced by `by` (whose variables are added).
  Expr substitute(std::string_view variable, const Expr& by) const;
  /// This expression with variables renamed; names that `renames` lacks stay. Pairs are (from, to).
  Expr rename(const std::vector<std::pair<std::string, std::string>>& renames) const;

  bool operator==(const Expr& other) const { return to_string() == other.to_string(); }

  /// Number of operands a code takes: 0 for leaves.
  static int arity(Code code);

 private:
  struct Parser;
  std::vector<Node> nodes_;
  std::vector<std::string> variables_;
};

/// One elementary function on one number: the definition every target's version is tested against.
float apply_unary(Expr::Code code, float x);

}  // namespace shunt
