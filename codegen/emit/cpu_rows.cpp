// `cpu` rows of the ops that move or map rows: embedding, pointwise, glu, the norms, gather_rows,
// concat, slice, transpose, dummy, sample. Test: tests/runtime/host/emit_test.cpp.
#include "codegen/emit/copy.h"
#include "codegen/emit/cpu.h"
#include "ir/error.h"
#include "runtime/plan/host_kernels.h"

namespace shunt::codegen {
namespace {

using ir::Op;
using ir::OpKind;

static_assert(static_cast<int>(HostNorm::layer) == static_cast<int>(ir::NormKind::layer));

void emit_embedding(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::EmbeddingAttrs>();
  const Type& table = op.operand(1)->type;
  HostArgs(b)
      .value(op.operand(0))
      .weight(op.operand(1))
      .integer(op.operand(0)->type.shape[0])
      .integer(table.shape[0])
      .integer(table.shape[1])
      .integer(a.offset)
      .arg(embedding_begin(a, b))
      .flag(!a.begins.empty())
      .value(op.result())
      .call("embedding");
}

bool supports_pointwise(const Op& op, const Context& c) {
  return cpu_expression(op, c, op.as<ir::PointwiseAttrs>().expr, 0);
}
void emit_pointwise(const Op& op, StepBuilder& b) {
  const Type& type = op.result()->type;
  HostArgs(b)
      .expr(op.as<ir::PointwiseAttrs>().expr)
      .integer(row_count(type))
      .integer(type.last())
      .value(op.result())
      .extras(op, 0, type, false)
      .call("pointwise");
}

bool supports_glu(const Op& op, const Context& c) {
  return cpu_expression(op, c, op.as<ir::GluAttrs>().expr, op.operands.size());
}
void emit_glu(const Op& op, StepBuilder& b) {
  const Type& type = op.result()->type;
  HostArgs(b)
      .expr(op.as<ir::GluAttrs>().expr)
      .value(op.operand(0))
      .integer(row_count(type))
      .integer(type.last())
      .value(op.result())
      .call("glu");
}

void emit_rms_norm(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::NormAttrs>();
  const Type& type = op.result()->type;
  HostArgs(b)
      .value(op.operand(0))
      .weight(op.operand(1))
      .integer(row_count(type))
      .integer(type.last())
      .real(a.eps)
      .flag(a.plus_one)
      .value(op.result())
      .call("rms_norm");
}

void emit_layer_norm(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::NormAttrs>();
  const Type& type = op.result()->type;
  HostArgs(b)
      .value(op.operand(0))
      .weight(op.operand(1))
      .weight(op.operand(2))
      .integer(row_count(type))
      .integer(type.last())
      .real(a.eps)
      .flag(a.plus_one)
      .value(op.result())
      .call("layer_norm");
}

void emit_add_norm(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::AddNormAttrs>();
  const Type& type = op.result()->type;
  HostArgs(b)
      .value(op.operand(0))
      .value(op.operand(1))
      .weight(op.operand(2))
      .weight(op.operand(3))
      .integer(row_count(type))
      .integer(type.last())
      .integer(static_cast<int64_t>(a.kind))
      .real(a.eps)
      .flag(a.plus_one)
      .value(op.result(0))
      .value(op.result(1))
      .call("add_norm");
}

void emit_gather_rows(const Op& op, StepBuilder& b) {
  const Type& x = op.operand(0)->type;
  HostArgs(b)
      .value(op.operand(0))
      .value(op.operand(1))
      .integer(x.shape[0])
      .integer(op.operand(1)->type.shape[0])
      .integer(x.shape[1])
      .value(op.result())
      .call("gather_rows");
}

/// A value as copy_2d sees it along an axis: rows before the axis, bytes of all that follows.
struct Pieces {
  Dim rows = 1;
  Dim inner;  // bytes behind one index of the axis
  Pieces(const Type& type, int64_t axis) : inner(dtype_bytes(type.dtype)) {
    for (int64_t i = 0; i < type.rank(); ++i) {
      if (i < axis) rows = rows * type.shape[static_cast<size_t>(i)];
      if (i > axis) inner = inner * type.shape[static_cast<size_t>(i)];
    }
  }
};

void emit_concat(const Op& op, StepBuilder& b) {
  const int64_t axis = op.as<ir::AxisAttrs>().axis;
  const auto at = static_cast<size_t>(axis);
  const Type& out = op.result()->type;
  const Pieces pieces(out, axis);
  Dim offset = 0;
  for (const ir::Value* x : op.operands) {
    const Dim bytes = x->type.shape[at] * pieces.inner;
    HostArgs(b)
        .value(x)
        .integer(0)
        .integer(bytes)
        .value(op.result())
        .integer(offset)
        .integer(out.shape[at] * pieces.inner)
        .integer(pieces.rows)
        .integer(bytes)
        .call("copy_2d");
    offset = offset + bytes;
  }
}

void emit_slice(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::SliceAttrs>();
  const Type& x = op.operand(0)->type;
  const Pieces pieces(x, a.axis);
  const Dim bytes = pieces.inner * (a.end - a.begin);
  HostArgs(b)
      .value(op.operand(0))
      .integer(pieces.inner * a.begin)
      .integer(x.shape[static_cast<size_t>(a.axis)] * pieces.inner)
      .value(op.result())
      .integer(0)
      .integer(bytes)
      .integer(pieces.rows)
      .integer(bytes)
      .call("copy_2d");
}

void emit_transpose(const Op& op, StepBuilder& b) {
  const Type& x = op.operand(0)->type;
  Dim batch = 1;
  const auto rank = x.shape.size();
  for (size_t i = 0; i + 2 < rank; ++i) batch = batch * x.shape[i];
  HostArgs(b)
      .value(op.operand(0))
      .integer(batch)
      .integer(x.shape[rank - 2])
      .integer(x.shape[rank - 1])
      .integer(dtype_bytes(x.dtype))
      .value(op.result())
      .call("transpose");
}

/// Parameters may have any float type here, unlike step values.
bool supports_load(const Op&, const Context& c) { return c.target.is_cpu(); }
bool supports_dummy(const Op& op, const Context& c) {
  const DType d = op.as<ir::DummyAttrs>().dtype;
  return c.target.is_cpu() && (d == DType::f32 || d == DType::f16 || d == DType::bf16);
}
void emit_dummy(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::DummyAttrs>();
  HostArgs(b)
      .value(op.result())
      .integer(static_cast<int64_t>(a.dtype))
      .integer(op.result()->type.elements())
      .integer(a.seed)
      .real(a.mean)
      .real(a.stddev)
      .call("dummy");
}

void emit_sample(const Op& op, StepBuilder& b) {
  const Type& logits = op.operand(0)->type;
  HostArgs args(b);
  for (const ir::Value* v : op.operands) args.value(v);
  args.integer(logits.shape[0]).integer(logits.shape[1]).value(op.result()).call("sample");
}

}  // namespace

std::vector<KernelImpl> cpu_row_kernels() {
  return {
      {"embedding.cpu", OpKind::embedding, cpu_types, cpu_seconds, emit_embedding},
      {"pointwise.cpu", OpKind::pointwise, supports_pointwise, cpu_seconds, emit_pointwise},
      {"glu.cpu", OpKind::glu, supports_glu, cpu_seconds, emit_glu},
      {"rms_norm.cpu", OpKind::rms_norm, cpu_types, cpu_seconds, emit_rms_norm},
      {"layer_norm.cpu", OpKind::layer_norm, cpu_types, cpu_seconds, emit_layer_norm},
      {"add_norm.cpu", OpKind::add_norm, cpu_types, cpu_seconds, emit_add_norm},
      {"gather_rows.cpu", OpKind::gather_rows, cpu_types, cpu_seconds, emit_gather_rows},
      {"concat.cpu", OpKind::concat, supports_load, cpu_seconds, emit_concat},
      {"slice.cpu", OpKind::slice, supports_load, cpu_seconds, emit_slice},
      {"transpose.cpu", OpKind::transpose, supports_load, cpu_seconds, emit_transpose},
      {"dummy.cpu", OpKind::dummy, supports_dummy, cpu_seconds, emit_dummy},
      {"sample.cpu", OpKind::sample, cpu_types, cpu_seconds, emit_sample},
  };
}

}  // namespace shunt::codegen
