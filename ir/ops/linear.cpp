// infer_ and cost_ of linear and head_linear, and what the expert forms in moe.cpp share with it.
// Tested by tests/ir/ops/linear.mir.
#include "ir/ops/linear.h"

namespace shunt::ir {

Dim check_columns(const Op& op, const Type& weight, bool glu) {
  const Dim& n = weight.shape[weight.shape.size() - 2];
  if (!glu) return n;
  SHUNT_RULE(3, n.divisible_by(2), "glu needs an even number of rows in weight {}", str(weight));
  return n.divided_by(2);
}

void check_epilogue(const Op& op, const std::string& epilogue, bool glu, DType out,
                    size_t first_extra) {
  if (epilogue.empty()) {
    SHUNT_RULE(4, !glu && op.operands.size() == first_extra,
               "no epilogue, with {}{} extra operands", glu ? "glu and " : "",
               op.operands.size() - first_extra);
  } else if (glu) {
    check_expr(op, 4, "epilogue", epilogue, {"gate", "up"}, first_extra);
  } else {
    check_expr(op, 4, "epilogue", epilogue, {"acc"}, first_extra);
  }
  SHUNT_RULE(5, is_real(out), "out = {} is not f32, f16 or bf16", dtype_name(out));
}

Dim linear_flops(const Op& op, const Dim& rows, const Type& weight, const std::string& epilogue) {
  const Dim matmul = rows * 2 * weight.shape[weight.shape.size() - 2] * weight.last();
  if (epilogue.empty()) return matmul;
  return matmul +
         op.result()->type.elements() * static_cast<int64_t>(Expr::parse(epilogue).nodes().size());
}

// C1 x is a real [T, K]. C2 w is a real [N, K] of numbers. C3 with glu, N is even.
// C4 the epilogue parses and uses acc (with glu: gate, up) and x0.. of the extra operands, and all
// of those; with glu it is not empty. C5 out is real. C6 extra operands are real [N'] or [T, N'].
std::vector<Type> infer_linear(const Op& op) {
  const auto& a = op.as<LinearAttrs>();
  check_operands(op, {"x", "w", "extra*"});
  const Type& x = type_of(op, 0);
  const Type& w = type_of(op, 1);
  SHUNT_RULE(1, is_real(x, 2), "x {} is not a float [T, K]", str(x));
  SHUNT_RULE(2, is_real(w, 2) && w.elements().is_constant() && w.last() == x.last(),
             "weight {} does not match the last dim of x {}", str(w), str(x));
  const Type out{a.out, {x.shape[0], check_columns(op, w, a.glu)}};
  check_epilogue(op, a.epilogue, a.glu, a.out, 2);
  for (size_t i = 2; i < op.operands.size(); ++i) {
    const Type& t = type_of(op, i);
    SHUNT_RULE(6, is_vector(t, out.last()) || (is_real(t.dtype) && t.shape == out.shape),
               "extra operand x{} {} does not match the result {}", i - 2, str(t), str(out));
  }
  return {out};
}
Cost cost_linear(const Op& op) {
  return {io_bytes(op),
          linear_flops(op, type_of(op, 0).shape[0], type_of(op, 1), op.as<LinearAttrs>().epilogue)};
}

// C1 x is a real [T, heads, K]. C2 w is a real [heads, N, K] of numbers. C3 out is real.
std::vector<Type> infer_head_linear(const Op& op) {
  const DType out = op.as<HeadLinearAttrs>().out;
  check_operands(op, {"x", "w"});
  const Type& x = type_of(op, 0);
  const Type& w = type_of(op, 1);
  SHUNT_RULE(1, is_real(x, 3) && x.shape[1].is_constant(), "x {} is not a float [T, heads, K]",
             str(x));
  SHUNT_RULE(2,
             is_real(w, 3) && w.elements().is_constant() && w.shape[0] == x.shape[1] &&
                 w.last() == x.last(),
             "weight {} is not [heads, N, K] for x {}", str(w), str(x));
  SHUNT_RULE(3, is_real(out), "out = {} is not f32, f16 or bf16", dtype_name(out));
  return {{out, {x.shape[0], x.shape[1], w.shape[1]}}};
}
Cost cost_head_linear(const Op& op) {
  return {io_bytes(op), type_of(op, 0).shape[0] * (2 * type_of(op, 1).elements().constant())};
}

}  // namespace shunt::ir
