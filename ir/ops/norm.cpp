// infer_ and cost_ of rms_norm, layer_norm and add_norm. Tested by tests/ir/ops/norm.mir.
#include <cmath>

#include "ir/ops/check.h"

namespace shunt::ir {

namespace {

constexpr int64_t kNormFlops = 5;  // an element: square, add, scale, weight, bias

/// Rule 1: weight, and bias where there is one, fit the last dim of x.
void check_weights(const Op& op, const Type& x, size_t weight, size_t bias) {
  const Type& w = type_of(op, weight);
  SHUNT_RULE(1, x.rank() >= 1 && is_vector(w, x.last()),
             "weight {} does not match the last dim of {}", str(w), str(x));
  SHUNT_RULE(1, !has(op, bias) || is_vector(type_of(op, bias), x.last()),
             "bias {} does not match the last dim of {}", str(type_of(op, bias)), str(x));
}

void check_eps(const Op& op, int number, double eps) {
  SHUNT_RULE(number, std::isfinite(eps) && eps >= 0, "eps = {}", eps);
}

}  // namespace

// C1 weight is a real [N], N the last dim of x. C2 x is real. C3 eps is finite and not negative.
std::vector<Type> infer_rms_norm(const Op& op) {
  check_operands(op, {"x", "weight"});
  const Type& x = type_of(op, 0);
  check_weights(op, x, 1, op.operands.size());
  SHUNT_RULE(2, is_real(x.dtype), "{} is not a float", str(x));
  check_eps(op, 3, op.as<NormAttrs>().eps);
  return {x};
}
Cost cost_rms_norm(const Op& op) { return {io_bytes(op), type_of(op, 0).elements() * kNormFlops}; }

// C1 weight and bias are real [N], N the last dim of x. C2 x is real. C3 eps is finite and not
// negative.
std::vector<Type> infer_layer_norm(const Op& op) {
  check_operands(op, {"x", "weight", "bias?"});
  const Type& x = type_of(op, 0);
  check_weights(op, x, 1, 2);
  SHUNT_RULE(2, is_real(x.dtype), "{} is not a float", str(x));
  check_eps(op, 3, op.as<NormAttrs>().eps);
  return {x};
}
Cost cost_layer_norm(const Op& op) {
  return {io_bytes(op), type_of(op, 0).elements() * kNormFlops};
}

// C1 weight and bias are real [N], N the last dim of x. C2 x and y are real, of the same shape [T,
// N]. C3 eps is finite and not negative. C4 a bias only with kind = layer.
std::vector<Type> infer_add_norm(const Op& op) {
  const auto& a = op.as<AddNormAttrs>();
  check_operands(op, {"x", "y", "weight", "bias?"});
  const Type& x = type_of(op, 0);
  const Type& y = type_of(op, 1);
  check_weights(op, x, 2, 3);
  SHUNT_RULE(2, is_real(x, 2) && is_real(y, 2) && x.shape == y.shape,
             "{} + {} is not a sum of float [T, N]", str(x), str(y));
  check_eps(op, 3, a.eps);
  SHUNT_RULE(4, a.kind == NormKind::layer || !has(op, 3), "an RMS norm has no bias, this one {}",
             str(type_of(op, 3)));
  return {x, x};
}
Cost cost_add_norm(const Op& op) {
  return {io_bytes(op), type_of(op, 0).elements() * (kNormFlops + 1)};
}

}  // namespace shunt::ir
