// Symbolic sizes. A Dim is a canonical sum of factor * symbol plus a constant ("8*T+16"), so that
// == is structural. A DimExpr adds ceildiv, min and max on top: grids and byte counts in a plan
// ("ceildiv(8*T,128)").
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

/// Values of the symbols at run time, or their upper bounds at compile time.
using DimEnv = std::map<std::string, int64_t, std::less<>>;

class Dim {
 public:
  Dim() = default;
  Dim(int64_t constant) : constant_(constant) {}  // NOLINT: sizes are mostly plain numbers
  static Dim symbol(std::string name);

  bool is_constant() const { return terms_.empty(); }
  /// Requires is_constant().
  int64_t constant() const;
  /// Throws InternalError if a symbol is missing from `env` or the arithmetic overflows.
  int64_t evaluate(const DimEnv& env) const;
  /// True if this == k * other for an integer k >= 1, which is stored.
  bool is_multiple_of(const Dim& other, int64_t* factor) const;
  /// Exact division by a constant; throws InternalError if a coefficient is not divisible.
  Dim divided_by(int64_t divisor) const;
  bool divisible_by(int64_t divisor) const;

  Dim operator+(const Dim& other) const;
  Dim operator-(const Dim& other) const;
  /// At most one side may be symbolic (InternalError otherwise).
  Dim operator*(const Dim& other) const;
  bool operator==(const Dim&) const = default;

  const std::map<std::string, int64_t>& terms() const { return terms_; }
  /// "8*T+16"; symbols in alphabetical order, the constant last, "0" for the empty sum.
  std::string to_string() const;
  /// Parses what to_string prints. Throws UserError.
  static Dim parse(std::string_view text);

 private:
  std::map<std::string, int64_t> terms_;  // symbol -> factor, never 0
  int64_t constant_ = 0;
};

/// A declared symbol and its range, both ends inclusive: "dim T in [1, 4096]".
struct DimDecl {
  std::string name;
  int64_t min = 1;
  int64_t max = 1;
  bool operator==(const DimDecl&) const = default;
};

/// An integer expression over dims, evaluated by the runtime before every step.
/// Grammar: sum := product (('+'|'-') product)*; product := atom ('*' atom)*;
/// atom := integer | symbol | ceildiv(sum,sum) | min(sum,sum) | max(sum,sum) | (sum).
class DimExpr {
 public:
  DimExpr() : DimExpr(Dim(0)) {}
  DimExpr(int64_t constant) : DimExpr(Dim(constant)) {}  // NOLINT
  DimExpr(const Dim& dim);                               // NOLINT
  static DimExpr ceildiv(const DimExpr& a, const DimExpr& b);
  static DimExpr min(const DimExpr& a, const DimExpr& b);
  static DimExpr max(const DimExpr& a, const DimExpr& b);
  DimExpr operator*(const DimExpr& other) const;
  DimExpr operator+(const DimExpr& other) const;

  int64_t evaluate(const DimEnv& env) const;
  /// The same with values by position: symbols were bound by bind(). What the runtime uses: no
  /// strings, no maps.
  int64_t evaluate(const int64_t* values) const;
  /// Replaces every symbol by its index in `decls`. Throws UserError for an undeclared one.
  void bind(const std::vector<DimDecl>& decls);

  std::string to_string() const { return text_; }
  static DimExpr parse(std::string_view text);
  bool operator==(const DimExpr& other) const { return text_ == other.text_; }

 private:
  enum class Code : uint8_t { constant, symbol, add, sub, mul, ceildiv, min, max };
  struct Node {
    Code code;
    int64_t value = 0;  // constant, or a bound symbol's index
    std::string name;   // symbol
  };
  struct Parser;
  static DimExpr from_text(std::string text);
  template <class Lookup>
  int64_t run(Lookup&& lookup) const;

  std::string text_;
  std::vector<Node> postfix_;
};

}  // namespace shunt
