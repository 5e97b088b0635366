// infer_ and cost_ of ops that move or map elements: concat, slice, reshape, embedding, pointwise,
// glu, gather_rows. Tested by tests/ir/ops/tensor.mir.
#include "ir/ops/check.h"

namespace shunt::ir {

namespace {

int64_t expr_flops(const std::string& text) {
  return static_cast<int64_t>(Expr::parse(text).nodes().size());
}

}  // namespace

// C1 axis is one of operand 0's. C2 same dtype and, but for axis, same sizes.
std::vector<Type> infer_concat(const Op& op) {
  const int64_t axis = op.as<AxisAttrs>().axis;
  check_operands(op, {"x0", "x*"});
  Type type = type_of(op, 0);
  SHUNT_RULE(1, axis >= 0 && axis < type.rank(), "axis {} of {}", axis, str(type));
  const auto at = static_cast<size_t>(axis);
  for (size_t i = 1; i < op.operands.size(); ++i) {
    Type other = type_of(op, i);
    const bool same_rank = other.rank() == type.rank();
    const Dim size = same_rank ? other.shape[at] : Dim(0);
    if (same_rank) other.shape[at] = type.shape[at];
    SHUNT_RULE(2, other == type, "operand {} : {} does not match {} beside axis {}", i,
               str(type_of(op, i)), str(type_of(op, 0)), axis);
    type.shape[at] = type.shape[at] + size;
  }
  return {type};
}
Cost cost_concat(const Op& op) { return {io_bytes(op), 0}; }

// C1 axis is one of the operand's. C2 the size along axis is a number and 0 <= begin < end <= size.
std::vector<Type> infer_slice(const Op& op) {
  const auto& a = op.as<SliceAttrs>();
  check_operands(op, {"x"});
  Type type = type_of(op, 0);
  SHUNT_RULE(1, a.axis >= 0 && a.axis < type.rank(), "axis {} of {}", a.axis, str(type));
  Dim& size = type.shape[static_cast<size_t>(a.axis)];
  SHUNT_RULE(2, size.is_constant() && a.begin >= 0 && a.begin < a.end && a.end <= size.constant(),
             "[{}, {}) of axis {} of {}", a.begin, a.end, a.axis, str(type));
  size = a.end - a.begin;
  return {type};
}
Cost cost_slice(const Op& op) { return {op.result()->type.bytes() * 2, 0}; }

// C1 the shape has at most one symbolic size. C2 as many elements as the operand.
std::vector<Type> infer_reshape(const Op& op) {
  check_operands(op, {"x"});
  const Type& x = type_of(op, 0);
  const Type type{x.dtype, op.as<ReshapeAttrs>().shape};
  SHUNT_RULE(1, has_elements(type), "{} has more than one symbolic size", str(type));
  SHUNT_RULE(2, type.elements() == x.elements(), "{} has {} elements, {} has {}", str(type),
             str(type.elements()), str(x), str(x.elements()));
  return {type};
}
Cost cost_reshape(const Op& op) { return {io_bytes(op), 0}; }

// C1 ids are i32[T]. C2 the table is real, of rank 2. C3 out is real.
std::vector<Type> infer_embedding(const Op& op) {
  const DType out = op.as<EmbeddingAttrs>().out;
  check_operands(op, {"ids", "table"});
  const Type& ids = type_of(op, 0);
  const Type& table = type_of(op, 1);
  SHUNT_RULE(1, is_i32(ids, 1), "ids {} are not i32[T]", str(ids));
  SHUNT_RULE(2, is_real(table, 2), "table {} is not a float [V, H]", str(table));
  SHUNT_RULE(3, is_real(out), "out = {} is not f32, f16 or bf16", dtype_name(out));
  return {{out, {ids.shape[0], table.shape[1]}}};
}
/// Of the table only the rows that are read.
Cost cost_embedding(const Op& op) {
  const Type& out = op.result()->type;
  return {operand_bytes(op, 0) +
              out.elements() * (dtype_bytes(type_of(op, 1).dtype) + dtype_bytes(out.dtype)),
          0};
}

// C1 x0 is real, with a last dim. C2 each further one is real, of x0's shape, [N] or [.., 1].
// C3 the expression parses and uses x0.. of the operands, and all of them. C4 out is real.
std::vector<Type> infer_pointwise(const Op& op) {
  const auto& a = op.as<PointwiseAttrs>();
  check_operands(op, {"x0", "x*"});
  const Type& x = type_of(op, 0);
  SHUNT_RULE(1, is_real(x.dtype) && x.rank() >= 1, "x0 {} is not a float [.., N]", str(x));
  std::vector<Dim> column = x.shape;
  column.back() = 1;
  for (size_t i = 1; i < op.operands.size(); ++i) {
    const Type& t = type_of(op, i);
    SHUNT_RULE(
        2, is_real(t.dtype) && (t.shape == x.shape || t.shape == column || is_vector(t, x.last())),
        "x{} {} does not broadcast to x0 {}", i, str(t), str(x));
  }
  check_expr(op, 3, "expr", a.expr, {}, 0);
  SHUNT_RULE(4, is_real(a.out), "out = {} is not f32, f16 or bf16", dtype_name(a.out));
  return {{a.out, x.shape}};
}
Cost cost_pointwise(const Op& op) {
  return {io_bytes(op), op.result()->type.elements() * expr_flops(op.as<PointwiseAttrs>().expr)};
}

// C1 x is real, of rank 2, with an even number of columns. C2 the expression parses and uses only
// gate and up.
std::vector<Type> infer_glu(const Op& op) {
  check_operands(op, {"x"});
  const Type& x = type_of(op, 0);
  SHUNT_RULE(1, is_real(x, 2) && x.last().divisible_by(2), "{} is not a float [T, 2N]", str(x));
  check_expr(op, 2, "expr", op.as<GluAttrs>().expr, {"gate", "up"}, op.operands.size());
  return {{x.dtype, {x.shape[0], x.shape[1].divided_by(2)}}};
}
Cost cost_glu(const Op& op) {
  return {io_bytes(op), op.result()->type.elements() * expr_flops(op.as<GluAttrs>().expr)};
}

// C1 x has rank 2. C2 rows are i32[R].
std::vector<Type> infer_gather_rows(const Op& op) {
  check_operands(op, {"x", "rows"});
  const Type& x = type_of(op, 0);
  SHUNT_RULE(1, x.rank() == 2, "x {} is not [T, H]", str(x));
  SHUNT_RULE(2, is_i32(type_of(op, 1), 1), "rows {} are not i32[R]", str(type_of(op, 1)));
  return {{x.dtype, {type_of(op, 1).shape[0], x.shape[1]}}};
}
/// Of x only the rows that are read.
Cost cost_gather_rows(const Op& op) {
  return {operand_bytes(op, 1) + op.result()->type.bytes() * 2, 0};
}

}  // namespace shunt::ir
