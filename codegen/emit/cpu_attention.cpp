// `cpu` rows of rope, kv_append, rope_append and attention. Test: tests/runtime/host/emit_test.cpp.
#include "codegen/emit/cpu.h"
#include "runtime/plan/host_kernels.h"

namespace shunt::codegen {
namespace {

using ir::Op;
using ir::OpKind;

static_assert(static_cast<int>(HostHeadNorm::full) == static_cast<int>(ir::HeadNorm::full));
static_assert(static_cast<int>(HostHeadNorm::head) == static_cast<int>(ir::HeadNorm::head));

void emit_rope(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::RopeAttrs>();
  const Type& x = op.operand(0)->type;
  HostArgs(b)
      .value(op.operand(0))
      .value(op.operand(1))
      .value(op.operand(2))
      .integer(x.shape[0])
      .integer(x.shape[1])
      .integer(x.shape[2])
      .integer(op.operand(2)->type.shape[0])
      .flag(a.interleaved)
      .real(a.scale)
      .value(op.result())
      .call("rope");
}

void emit_kv_append(const Op& op, StepBuilder& b) {
  const Type& k = op.operand(0)->type;
  const Dim v_dim = op.operand(1) == nullptr ? Dim(0) : op.operand(1)->type.shape[2];
  const Type& tables = op.operand(4)->type;
  HostArgs args(b);
  for (const ir::Value* value : op.operands) args.value(value);
  args.integer(k.shape[0])
      .integer(tables.shape[0])
      .integer(tables.shape[1])
      .integer(k.shape[1])
      .integer(k.shape[2])
      .integer(v_dim)
      .integer(b.context().page_size)
      .call("kv_append");
}

void emit_rope_append(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::RopeAppendAttrs>();
  const Type& tables = op.operand(6)->type;
  const ir::Value* inv_freq = op.operand(2);
  HostArgs(b)
      .value(op.operand(0))
      .value(op.operand(1))
      .value(inv_freq)
      .weight(op.operand(3))
      .weight(op.operand(4))
      .value(op.operand(5))
      .value(op.operand(6))
      .value(op.operand(7))
      .value(op.operand(8))
      .integer(op.operand(0)->type.shape[0])
      .integer(tables.shape[0])
      .integer(tables.shape[1])
      .integer(a.heads)
      .integer(a.kv_heads)
      .integer(a.head_dim)
      .integer(inv_freq == nullptr ? Dim(0) : inv_freq->type.shape[0])
      .integer(b.context().page_size)
      .integer(static_cast<int64_t>(a.norm))
      .real(a.eps)
      .flag(a.plus_one)
      .flag(a.interleaved)
      .real(a.scale)
      .value(op.result())
      .call("rope_append");
}

void emit_attention(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::AttentionAttrs>();
  const Type& q = op.operand(0)->type;
  const Type& tables = op.operand(3)->type;
  const Type& k = op.operand(4)->type;  // one row
  HostArgs args(b);
  for (size_t i = 0; i < 6; ++i) args.value(op.operand(i));
  args.weight(op.operand(6))
      .weight(op.operand(7))
      .integer(q.shape[0])
      .integer(tables.shape[0])
      .integer(tables.shape[1])
      .integer(q.shape[1])
      .integer(k.shape[0])
      .integer(q.shape[2])
      .integer(op.result()->type.last().divided_by(q.shape[1].constant()))
      .integer(b.context().page_size)
      .real(a.scale)
      .integer(a.window)
      .integer(a.chunk)
      .real(a.softcap)
      .value(op.result())
      .call("attention");
}

void emit_encoder_attention(const Op& op, StepBuilder& b) {
  const Type &q = op.operand(0)->type, &k = op.operand(1)->type;
  HostArgs args(b);
  for (const ir::Value* value : op.operands) args.value(value);
  args.integer(q.shape[0])
      .integer(op.operand(3)->type.shape[0] - 1)
      .integer(q.shape[1])
      .integer(k.shape[1])
      .integer(q.shape[2])
      .integer(op.operand(2)->type.shape[2])
      .real(op.as<ir::EncoderAttentionAttrs>().scale)
      .value(op.result())
      .call("encoder_attention");
}

}  // namespace

std::vector<KernelImpl> cpu_attention_kernels() {
  return {
      {"rope.cpu", OpKind::rope, cpu_types, cpu_seconds, emit_rope},
      {"kv_append.cpu", OpKind::kv_append, cpu_types, cpu_seconds, emit_kv_append},
      {"rope_append.cpu", OpKind::rope_append, cpu_types, cpu_seconds, emit_rope_append},
      {"attention.cpu", OpKind::attention, cpu_types, cpu_seconds, emit_attention},
      {"encoder_attention.cpu", OpKind::encoder_attention, cpu_types, cpu_seconds,
       emit_encoder_attention},
  };
}

}  // namespace shunt::codegen
