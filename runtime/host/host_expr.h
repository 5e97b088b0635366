// A fused expression as host kernels run it: postfix over blocks of floats, one vector loop a node.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ir/expr.h"
#include "runtime/host/simd.h"
#include "runtime/plan/host_kernels.h"

namespace shunt {

/// Compiled once at load (Arg::Kind::expr), evaluated without allocation. Variables have fixed
/// places: acc and gate 0, up 1, x0, x1, ... 2, 3, ...
class HostExpr {
 public:
  static constexpr int kBlock = 256;    // floats evaluated at once
  static constexpr int kMaxDepth = 16;  // values alive at once
  static constexpr int kExtras = 2;     // place of x0
  static constexpr int kPlaces = kExtras + kMaxHostOperands;

  /// The common expressions, which kernels may compute in one loop of their own.
  enum class Form : uint8_t { general, identity, acc_plus_x0, silu_gate_times_up };

  /// Throws UserError on a syntax error, an unknown variable, or one that needs more than kMaxDepth
  /// values.
  static HostExpr compile(std::string_view text);
  static HostExpr compile(const Expr& expr);
  /// True if compile() would accept it.
  static bool supports(const Expr& expr);

  Form form() const { return form_; }
  /// True if some variable has this place.
  bool uses(int place) const { return (used_ >> place & 1) != 0; }

  /// out[i] = the expression of inputs[place][i], i < n <= kBlock. Every used place must be set;
  /// out may be an input.
  void evaluate(const float* const* inputs, int n, float* out) const;

 private:
  enum class Kind : uint8_t { input, constant, unary, binary, clamp };
  struct Node {
    Kind kind;
    uint8_t index = 0;  // place, function
    int block = 0;      // constant: index into constants_
  };

  std::vector<Node> nodes_;
  std::vector<float> constants_;  // one block of kBlock equal floats each
  uint32_t used_ = 0;
  Form form_ = Form::general;
};

}  // namespace shunt
