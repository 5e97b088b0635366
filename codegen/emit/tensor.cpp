// Rows of the ops that move or map elements: embedding, gather_rows, concat, slice, pointwise, glu,
// dummy. Entry point tensor_kernels(); tested by tests/codegen/tensor_nvrtc_test.cpp (compiles) and
// tests/kernels (values).
#include <algorithm>
#include <numeric>

#include "codegen/emit/copy.h"
#include "codegen/emit/families.h"
#include "codegen/emit/launch.h"
#include "ir/error.h"

namespace shunt::codegen {

namespace {

using ir::OpKind;

bool supports_floats(const ir::Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op) && op.result()->type.last().is_constant();
}

double memory_seconds(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.8, 0.3);
}

// ---- embedding, gather_rows ----

void emit_take_rows(const char* name, const ir::Value* index, const ir::Value* from,
                    const ir::Value* out, int64_t offset, const Arg& begin, StepBuilder& steps) {
  const int64_t cols = out->type.last().constant();
  const int64_t vec = vector_width(cols);
  const int64_t threads = std::clamp<int64_t>(round_up(cols / vec, 32), 32, 256);
  LaunchBuilder launch(steps, name, "rows.cuh", "take_rows");
  launch.type("From", from->type.dtype).type("Out", out->type.dtype);
  launch.number("kCols", cols)
      .number("kVec", vec)
      .number("kThreads", threads)
      .number("kOffset", offset);
  launch.in("index", index).in("from", from).out("out", out).i32("from_rows", from->type.shape[0]);
  launch.parameter("int begin", begin);
  launch.launch(out->type.shape[0], threads);
}

void emit_embedding(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::EmbeddingAttrs>();
  emit_take_rows("embedding", op.operand(0), op.operand(1), op.result(), a.offset,
                 embedding_begin(a, steps), steps);
}

void emit_gather_rows(const ir::Op& op, StepBuilder& steps) {
  emit_take_rows("gather_rows", op.operand(1), op.operand(0), op.result(), 0, StepBuilder::i32(0),
                 steps);
}

// ---- concat, slice ----

/// The largest power of two up to 16 that divides all sizes in bytes.
int64_t common_unit(const RowCopy& c, int64_t element) {
  int64_t unit = 16;
  for (const Dim* d : {&c.row, &c.from_pitch, &c.to_pitch, &c.from_offset, &c.to_offset}) {
    while (unit > 1 && !(*d * element).divisible_by(unit)) unit /= 2;
  }
  return unit;
}

}  // namespace

void emit_copy_rows(const char* name, const Arg& from, const Arg& to, int64_t element,
                    const RowCopy& c, StepBuilder& steps) {
  const int64_t unit = common_unit(c, element);
  const char* type = unit == 16  ? "uint4"
                     : unit == 8 ? "uint2"
                     : unit == 4 ? "shunt::uint32"
                     : unit == 2 ? "shunt::uint16"
                                 : "shunt::uint8";
  const auto units = [&](const Dim& d) { return DimExpr((d * element).divided_by(unit)); };
  constexpr int64_t kThreads = 256;
  LaunchBuilder launch(steps, name, "rows.cuh", "copy_rows");
  launch.type("Unit", std::string(type)).number("kThreads", kThreads);
  launch.parameter("const shunt::uint8* from", from);
  launch.parameter("shunt::uint8* to", to);
  launch.i64("rows", c.rows).i64("row_units", units(c.row));
  launch.i64("from_pitch", units(c.from_pitch)).i64("to_pitch", units(c.to_pitch));
  launch.i64("from_offset", units(c.from_offset)).i64("to_offset", units(c.to_offset));
  const DimExpr count = DimExpr(c.rows) * units(c.row);
  launch.launch(DimExpr::max(1, DimExpr::min(DimExpr::ceildiv(count, kThreads),
                                             steps.context().target.sm_count * 8)),
                kThreads);
}

Dim inner_elements(const Type& t, int64_t axis) {
  Dim n = 1;
  for (size_t i = static_cast<size_t>(axis) + 1; i < t.shape.size(); ++i) n = n * t.shape[i];
  return n;
}
Dim outer_elements(const Type& t, int64_t axis) {
  Dim n = 1;
  for (size_t i = 0; i < static_cast<size_t>(axis); ++i) n = n * t.shape[i];
  return n;
}

namespace {

void emit_concat(const ir::Op& op, StepBuilder& steps) {
  const int64_t axis = op.as<ir::AxisAttrs>().axis;
  const Type& out = op.result()->type;
  const Dim inner = inner_elements(out, axis);
  Dim at = 0;
  for (const ir::Value* x : op.operands) {
    const Dim row = x->type.shape[axis] * inner;
    emit_copy_rows("concat", steps.arg(x), steps.arg(op.result()), dtype_bytes(out.dtype),
                   {outer_elements(out, axis), row, row, out.shape[axis] * inner, 0, at}, steps);
    at = at + row;
  }
}

void emit_slice(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::SliceAttrs>();
  const Type& x = op.operand(0)->type;
  const Dim inner = inner_elements(x, a.axis);
  const Dim row = inner * (a.end - a.begin);
  emit_copy_rows("slice", steps.arg(op.operand(0)), steps.arg(op.result()), dtype_bytes(x.dtype),
                 {outer_elements(x, a.axis), row, x.shape[a.axis] * inner, row, inner * a.begin, 0},
                 steps);
}

bool supports_copy(const ir::Op&, const Context& context) { return is_cuda(context); }

// ---- pointwise, glu ----

constexpr size_t kMaxOperands = 32;  // two bits each in kBroadcast

bool supports_pointwise(const ir::Op& op, const Context& context) {
  return supports_floats(op, context) && op.operands.size() <= kMaxOperands;
}

/// 0: the full shape, 1: [N], 2: [.., 1] (kernels/pointwise.cuh).
uint64_t broadcast_kind(const Type& x, const Type& full) {
  if (x.shape == full.shape) return 0;
  return x.rank() == 1 && x.last() == full.last() ? 1 : 2;
}

void emit_pointwise(const ir::Op& op, StepBuilder& steps) {
  const Type& full = op.result()->type;
  const int64_t cols = full.last().constant();
  const int64_t vec = vector_width(cols);
  const Dim rows = full.elements().divided_by(cols);
  constexpr int64_t kThreads = 256;
  uint64_t broadcast = 0;
  std::vector<std::string> names;
  LaunchBuilder launch(steps, "pointwise", "pointwise.cuh", "pointwise");
  launch.out("out", op.result()).i32("rows", rows);
  for (size_t i = 0; i < op.operands.size(); ++i) {
    names.push_back(fmt::format("x{}", i));
    broadcast |= broadcast_kind(op.operand(i)->type, full) << (2 * i);
    launch.in(names.back(), op.operand(i));
  }
  launch.type("Out", full.dtype)
      .number("kCols", cols)
      .number("kVec", vec)
      .number("kThreads", kThreads);
  launch.number("kBroadcast", static_cast<int64_t>(broadcast));
  launch.extra(apply_function(op.as<ir::PointwiseAttrs>().expr, names));
  launch.launch(DimExpr::ceildiv(rows * (cols / vec), kThreads), kThreads);
}

void emit_glu(const ir::Op& op, StepBuilder& steps) {
  const Type& out = op.result()->type;
  const int64_t cols = out.last().constant();
  const int64_t vec = vector_width(cols);
  constexpr int64_t kThreads = 256;
  LaunchBuilder launch(steps, "glu", "pointwise.cuh", "glu");
  launch.type("X", op.operand(0)->type.dtype).type("Out", out.dtype);
  launch.number("kCols", cols).number("kVec", vec).number("kThreads", kThreads);
  launch.extra(apply_function(op.as<ir::GluAttrs>().expr, {"gate", "up"}));
  launch.out("out", op.result()).in("x", op.operand(0)).i32("rows", out.shape[0]);
  launch.launch(DimExpr::ceildiv(out.shape[0] * (cols / vec), kThreads), kThreads);
}

// ---- dummy ----

bool supports_dummy(const ir::Op& op, const Context& context) {
  return is_cuda(context) && is_plain_float(op.result()->type.dtype) &&
         op.result()->type.elements().is_constant();
}

void emit_dummy(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::DummyAttrs>();
  const int64_t count = op.result()->type.elements().constant();
  const int64_t vec = vector_width(count);
  constexpr int64_t kThreads = 256;
  LaunchBuilder launch(steps, "dummy", "dummy.cuh", "dummy");
  launch.type("Out", op.result()->type.dtype).number("kVec", vec).number("kThreads", kThreads);
  launch.out("out", op.result()).i64("count", Dim(count)).i64("seed", Dim(a.seed));
  launch.parameter("float mean", StepBuilder::f32(a.mean));
  launch.parameter("float stddev", StepBuilder::f32(a.stddev));
  const int64_t blocks =
      std::min(ceil_div(count, kThreads * vec), int64_t{steps.context().target.sm_count} * 8);
  launch.launch(DimExpr(std::max<int64_t>(blocks, 1)), kThreads);
}

}  // namespace

std::vector<KernelImpl> tensor_kernels() {
  return {
      {"embedding.row", OpKind::embedding, supports_floats, memory_seconds, emit_embedding},
      {"gather_rows.row", OpKind::gather_rows, supports_floats, memory_seconds, emit_gather_rows},
      {"concat.copy", OpKind::concat, supports_copy, memory_seconds, emit_concat},
      {"slice.copy", OpKind::slice, supports_copy, memory_seconds, emit_slice},
      {"pointwise.vector", OpKind::pointwise, supports_pointwise, memory_seconds, emit_pointwise},
      {"glu.vector", OpKind::glu, supports_floats, memory_seconds, emit_glu},
      {"dummy.counter", OpKind::dummy, supports_dummy, memory_seconds, emit_dummy},
  };
}

}  // namespace shunt::codegen
