// infer_ and cost_ of the ops of @load: checkpoint, dequantize, dummy, constant,
// transpose, store.
// Tested by tests/ir/ops/load.mir.
#include <cmath>

#include "ir/ops/check.h"

namespace shunt::ir {

namespace {

/// Rule `number`: every size is a positive number.
Type check_sizes(const Op& op, int number, DType dtype, const std::vector<Dim>& shape) {
  for (const Dim& d : shape) {
    SHUNT_RULE(number, d.is_constant() && d.constant() >= 1,
               "size {} in shape {} is not a positive number", str(d), str(Type{dtype, shape}));
  }
  return {dtype, shape};
}

}  // namespace

// C1 dtype is f32, f16, bf16, or a payload's f8e4m3 or u8; every size a positive number. C2 the
// tensor has a name. C3 with a stack, shape begins with it and the name has a '*'; without, the
// name has none.
std::vector<Type> infer_checkpoint(const Op& op) {
  const auto& a = op.as<CheckpointAttrs>();
  check_operands(op, {});
  SHUNT_RULE(1, is_real(a.dtype) || a.dtype == DType::f8e4m3 || a.dtype == DType::u8,
             "dtype {} is not f32, f16, bf16, f8e4m3 or u8", dtype_name(a.dtype));
  const Type type = check_sizes(op, 1, a.dtype, a.shape);
  SHUNT_RULE(2, !a.tensor.empty(), "the tensor's name is empty");
  const bool star = a.tensor.find('*') != std::string::npos;
  SHUNT_RULE(3, a.stack >= 0 && star == (a.stack > 0), "tensor \"{}\" with stack = {}", a.tensor,
             a.stack);
  SHUNT_RULE(3, a.stack == 0 || (type.rank() > 0 && type.shape[0] == Dim(a.stack)),
             "stack = {} is not the first size of {}", a.stack, str(type));
  return {type};
}
Cost cost_checkpoint(const Op& op) { return {io_bytes(op), 0}; }

// C1 payload f8e4m3 or u8, two dims or more, all numbers. C2 the scale is real or u8. C3 groups are
// positive, and hold whole bytes of a u8 payload. C4 the scale has one element a group. C5 dtype is
// f32, f16 or bf16.
std::vector<Type> infer_dequantize(const Op& op) {
  const auto& a = op.as<DequantizeAttrs>();
  check_operands(op, {"payload", "scale"});
  Type type = type_of(op, 0);
  const Type& scale = type_of(op, 1);
  const bool pairs = type.dtype == DType::u8;
  SHUNT_RULE(1, pairs || type.dtype == DType::f8e4m3, "payload {} is not f8e4m3 or u8", str(type));
  SHUNT_RULE(1, type.rank() >= 2, "payload {} has fewer than two dims", str(type));
  type = check_sizes(op, 1, type.dtype, type.shape);
  SHUNT_RULE(2, is_real(scale.dtype) || scale.dtype == DType::u8,
             "scale {} is not f32, f16, bf16 or u8", str(scale));
  SHUNT_RULE(3, a.group_rows >= 1 && a.group_columns >= 1 && !(pairs && a.group_columns % 2 != 0),
             "groups of {} x {} of {}", a.group_rows, a.group_columns, str(type));
  Dim &rows = type.shape.end()[-2], &columns = type.shape.back();
  if (pairs) columns = columns * 2;
  Type groups{scale.dtype, type.shape};
  groups.shape.end()[-2] = (rows.constant() + a.group_rows - 1) / a.group_rows;
  groups.shape.back() = (columns.constant() + a.group_columns - 1) / a.group_columns;
  SHUNT_RULE(4, scale == groups, "scale {} is not {}: one a group of {} x {}", str(scale),
             str(groups), a.group_rows, a.group_columns);
  SHUNT_RULE(5, is_real(a.dtype), "dtype {} is not f32, f16 or bf16", dtype_name(a.dtype));
  type.dtype = a.dtype;
  return {type};
}
Cost cost_dequantize(const Op& op) { return {io_bytes(op), op.result()->type.elements()}; }

// C1 dtype is f32, f16 or bf16, every size a positive number. C2 mean is finite, stddev finite and
// not negative.
std::vector<Type> infer_dummy(const Op& op) {
  const auto& a = op.as<DummyAttrs>();
  check_operands(op, {});
  SHUNT_RULE(1, is_real(a.dtype), "dtype {} is not f32, f16 or bf16", dtype_name(a.dtype));
  const Type type = check_sizes(op, 1, a.dtype, a.shape);
  SHUNT_RULE(2, std::isfinite(a.mean) && std::isfinite(a.stddev) && a.stddev >= 0,
             "mean = {}, stddev = {}", a.mean, a.stddev);
  return {type};
}
Cost cost_dummy(const Op& op) { return {io_bytes(op), op.result()->type.elements() * 20}; }

// C1 at least one value.
std::vector<Type> infer_constant(const Op& op) {
  const auto& a = op.as<ConstantAttrs>();
  check_operands(op, {});
  SHUNT_RULE(1, !a.values.empty(), "no values");
  return {{DType::f32, {Dim(static_cast<int64_t>(a.values.size()))}}};
}
Cost cost_constant(const Op& op) { return {io_bytes(op), 0}; }

// C1 rank 2 or more.
std::vector<Type> infer_transpose(const Op& op) {
  check_operands(op, {"x"});
  Type type = type_of(op, 0);
  SHUNT_RULE(1, type.rank() >= 2, "{} has fewer than two dims", str(type));
  std::swap(type.shape[type.shape.size() - 1], type.shape[type.shape.size() - 2]);
  return {type};
}
Cost cost_transpose(const Op& op) { return {io_bytes(op), 0}; }

// C1 value and parameter have the same type.
std::vector<Type> infer_store(const Op& op) {
  check_operands(op, {"x", "=param"});
  SHUNT_RULE(1, type_of(op, 0) == type_of(op, 1), "value {} does not match parameter {} : {}",
             str(type_of(op, 0)), op.operands[1]->name, str(type_of(op, 1)));
  return {};
}
Cost cost_store(const Op& op) { return {io_bytes(op), 0}; }

}  // namespace shunt::ir
