// Rows of rope, kv_append and rope_append (kernels/rope.cuh). Entry point rope_kernels(); tested by
// tests/codegen/rope_nvrtc_test.cpp (compiles) and tests/kernels (values).
#include <algorithm>

#include "codegen/emit/families.h"
#include "codegen/emit/launch.h"

namespace shunt::codegen {

namespace {

/// Elements a lane moves: one pass of a warp over a head where possible.
int64_t head_vector(int64_t dim) {
  int64_t vec = vector_width(dim);
  while (vec > 1 && dim / vec < 32) vec /= 2;
  return vec;
}

constexpr int64_t kThreads = 128;

/// Heads of one block: few tokens leave most multiprocessors idle, so a token's heads are spread
/// over blocks.
int64_t heads_per_block(const Context& context, const Dim& tokens, int64_t heads) {
  const int64_t warps = kThreads / 32;
  const int64_t spare = std::max<int64_t>(
      1, 2 * context.target.sm_count / std::max<int64_t>(1, context.bound(tokens)));
  return std::max(warps, round_up(ceil_div(heads, spare), warps));
}

void emit_rope(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::RopeAttrs>();
  const Type& x = op.operand(0)->type;
  const int64_t heads = x.shape[1].constant(), dim = x.shape[2].constant();
  const int64_t per_block = heads_per_block(steps.context(), x.shape[0], heads);
  LaunchBuilder launch(steps, "rope", "rope.cuh", "rope");
  launch.type("X", x.dtype).type("Out", op.result()->type.dtype);
  launch.number("kHeads", heads).number("kDim", dim).number("kVec", head_vector(dim));
  launch.number("kRotary", 2 * op.operand(2)->type.shape[0].constant());
  launch.boolean("kInterleaved", a.interleaved).real("kScale", a.scale);
  launch.number("kThreads", kThreads);
  launch.in("x", op.operand(0)).in("positions", op.operand(1)).in("inv_freq", op.operand(2));
  launch.out("out", op.result()).i32("heads_per_block", per_block);
  launch.launch({DimExpr(x.shape[0]), DimExpr(ceil_div(heads, per_block)), DimExpr(1)}, kThreads);
}

void emit_kv_append(const ir::Op& op, StepBuilder& steps) {
  const Type& k = op.operand(0)->type;
  const ir::Value *v = op.operand(1), *state_v = op.operand(6);
  const int64_t dim_v = v == nullptr ? 0 : v->type.shape[2].constant();
  const Type& tables = op.operand(4)->type;
  LaunchBuilder launch(steps, "kv_append", "rope.cuh", "kv_append");
  launch.type("K", k.dtype).type("V", v == nullptr ? DType::f32 : v->type.dtype);
  launch.type("StateK", op.operand(5)->type.dtype);
  launch.type("StateV", v == nullptr ? DType::f32 : state_v->type.dtype);
  launch.number("kHeads", k.shape[1].constant());
  launch.number("kDim", k.shape[2].constant()).number("kDimV", dim_v);
  launch.number("kVec", vector_width(k.shape[2].constant()));
  launch.number("kVecV", v == nullptr ? 1 : vector_width(dim_v));
  launch.number("kPageSize", steps.context().page_size)
      .number("kTableCols", tables.shape[1].constant());
  launch.boolean("kDecode", steps.context().decode).number("kThreads", kThreads);
  launch.in("k", op.operand(0)).in("v", v).in("positions", op.operand(2));
  launch.in("seq_starts", op.operand(3)).in("block_tables", op.operand(4));
  launch.out("state_k", op.operand(5));
  if (v == nullptr) {
    launch.parameter("float* state_v", Arg{});
  } else {
    launch.out("state_v", state_v);
  }
  launch.size("T", k.shape[0]).size("S", tables.shape[0]);
  launch.launch(k.shape[0], kThreads);
}

void emit_rope_append(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::RopeAppendAttrs>();
  const Type& qkv = op.operand(0)->type;
  const Type& tables = op.operand(6)->type;
  const ir::Value* inv_freq = op.operand(2);
  const ir::Value* q_norm = op.operand(3);
  const ir::Value* k_norm = op.operand(4);
  const int64_t heads = a.heads + 2 * a.kv_heads;
  const int64_t per_block = heads_per_block(steps.context(), qkv.shape[0], heads);
  LaunchBuilder launch(steps, "rope_append", "rope.cuh", "rope_append");
  launch.type("X", qkv.dtype).type("Q", op.result()->type.dtype);
  launch.type("StateK", op.operand(7)->type.dtype).type("StateV", op.operand(8)->type.dtype);
  launch.type("WQ", q_norm ? q_norm->type.dtype : DType::f32);
  launch.type("WK", k_norm ? k_norm->type.dtype : DType::f32);
  launch.number("kHeads", a.heads).number("kKvHeads", a.kv_heads).number("kDim", a.head_dim);
  launch.number("kVec", head_vector(a.head_dim));
  launch.number("kRotary", inv_freq ? 2 * inv_freq->type.shape[0].constant() : 0);
  launch.boolean("kInterleaved", a.interleaved).real("kScale", a.scale);
  launch.number("kNorm", static_cast<int64_t>(a.norm))
      .boolean("kPlusOne", a.plus_one)
      .real("kEps", a.eps);
  launch.number("kPageSize", steps.context().page_size)
      .number("kTableCols", tables.shape[1].constant());
  launch.boolean("kDecode", steps.context().decode);
  launch.number("kThreads", kThreads);
  launch.in("qkv", op.operand(0)).in("positions", op.operand(1)).in("inv_freq", inv_freq);
  launch.in("q_norm", q_norm).in("k_norm", k_norm);
  launch.in("seq_starts", op.operand(5)).in("block_tables", op.operand(6));
  launch.out("state_k", op.operand(7)).out("state_v", op.operand(8)).out("q", op.result());
  launch.i32("heads_per_block", per_block);
  launch.size("T", qkv.shape[0]).size("S", tables.shape[0]);
  launch.launch({DimExpr(qkv.shape[0]), DimExpr(ceil_div(heads, per_block)), DimExpr(1)}, kThreads);
}

constexpr int64_t kMaxHead = 1024;  // a head a warp must fit static shared memory

bool supports_rope(const ir::Op& op, const Context& context) {
  const Type& x = op.operand(0)->type;
  return is_cuda(context) && has_plain_types(op) && x.shape[1].is_constant() &&
         x.shape[2].is_constant() && x.shape[2].constant() <= kMaxHead;
}
bool supports_kv_append(const ir::Op& op, const Context& context) {
  const Type& k = op.operand(0)->type;
  const ir::Value* v = op.operand(1);
  return is_cuda(context) && has_plain_types(op) && k.shape[1].is_constant() &&
         k.shape[2].is_constant() && (v == nullptr || v->type.shape[2].is_constant());
}
bool supports_rope_append(const ir::Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op) &&
         op.as<ir::RopeAppendAttrs>().head_dim <= kMaxHead;
}

double seconds(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.6, 0.2);
}

}  // namespace

std::vector<KernelImpl> rope_kernels() {
  using ir::OpKind;
  return {
      {"rope.head", OpKind::rope, supports_rope, seconds, emit_rope},
      {"kv_append.row", OpKind::kv_append, supports_kv_append, seconds, emit_kv_append},
      {"rope_append.head", OpKind::rope_append, supports_rope_append, seconds, emit_rope_append},
  };
}

}  // namespace shunt::codegen
