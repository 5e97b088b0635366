// QK norm, rotation and the append to the KV cache become one op on the merged QKV.
//
//   %q  = slice %qkv {axis = 1, end = 64} : f32[T, 64]
//   %q3 = reshape %q {shape = [T, 4, 16]} : f32[T, 4, 16]
//   %qn = rms_norm %q3, @q_norm : f32[T, 4, 16]      (or over the full width, before the reshape)
//   %qr = rope %qn, %positions, @inv_freq : f32[T, 4, 16]
//   ... the same for k; v only has a slice and a reshape ...
//   kv_append %kr, %v3, %positions, %seq_starts, %block_tables, @k, @v
//   %a  = attention %qr, ...                                                            =>
//
//   %qr = rope_append %qkv, %positions, @inv_freq, @q_norm, @k_norm, %seq_starts, %block_tables,
//         @k, @v {heads = 4, kv_heads = 2, head_dim = 16, norm = head} : f32[T, 4, 16]
//   %a  = attention %qr, ...
//
// Norm and rotation are each optional, but q and k must have them alike. Entry point:
// fuse_rope_append. Tested by tests/passes/fuse_rope_append.mir.
#include <map>

#include "passes/passes.h"
#include "passes/rewrite.h"

namespace shunt::passes {

using ir::Graph;
using ir::HeadNorm;
using ir::NormAttrs;
using ir::Op;
using ir::OpKind;
using ir::RopeAppendAttrs;
using ir::RopeAttrs;
using ir::SliceAttrs;
using ir::Value;

namespace {

/// One of q, k and v, from the merged linear to what attention or kv_append reads.
struct Part {
  Value* qkv = nullptr;
  int64_t begin = 0, end = 0;   // columns of qkv
  int64_t heads = 0, size = 0;  // after the reshape
  HeadNorm norm = HeadNorm::none;
  Op* norm_op = nullptr;
  Op* rope = nullptr;
};

/// Steps from `*value` to its first operand if it is made by an op of this kind and nobody else
/// looks at it.
Op* step_back(const Graph& graph, Value** value, OpKind kind) {
  Op* op = producer(*value, kind);
  if (op == nullptr || !is_private(graph, *value)) return nullptr;
  *value = op->operand(0);
  return op;
}

bool find_part(const Graph& graph, Value* value, Part* part) {
  const Type& type = value->type;
  if (type.rank() != 3 || !type.shape[1].is_constant() || !type.last().is_constant()) return false;
  part->heads = type.shape[1].constant();
  part->size = type.last().constant();
  part->rope = step_back(graph, &value, OpKind::rope);
  part->norm_op = step_back(graph, &value, OpKind::rms_norm);
  if (part->norm_op != nullptr) part->norm = HeadNorm::head;
  if (step_back(graph, &value, OpKind::reshape) == nullptr || value->type.rank() != 2) return false;
  if (Op* full = step_back(graph, &value, OpKind::rms_norm)) {
    if (part->norm_op != nullptr) return false;
    part->norm = HeadNorm::full;
    part->norm_op = full;
  }
  const Op* slice = step_back(graph, &value, OpKind::slice);
  if (slice == nullptr || slice->as<SliceAttrs>().axis != 1) return false;
  part->qkv = value;
  part->begin = slice->as<SliceAttrs>().begin;
  part->end = slice->as<SliceAttrs>().end;
  return part->norm_op == nullptr || is_leaf(part->norm_op->operand(1));
}

/// q, then k, then v, as wide as the kernel expects, and nothing else in the merged value.
bool layout_fits(const Part& q, const Part& k, const Part& v) {
  if (k.qkv != q.qkv || v.qkv != q.qkv) return false;
  if (q.size != k.size || q.size != v.size || k.heads != v.heads || q.heads % k.heads != 0)
    return false;
  if (q.begin != 0 || q.end != q.heads * q.size || k.begin != q.end) return false;
  if (k.end != k.begin + k.heads * k.size || v.begin != k.end ||
      v.end != v.begin + k.heads * k.size)
    return false;
  return q.qkv->type.last() == Dim(v.end);
}

/// q and k get the same treatment, v none.
bool treatment_fits(const Part& q, const Part& k, const Part& v, const Op& append) {
  if (v.norm != HeadNorm::none || v.rope != nullptr) return false;
  if (q.norm != k.norm || (q.rope == nullptr) != (k.rope == nullptr)) return false;
  if (q.norm_op != nullptr && q.norm_op->attrs != k.norm_op->attrs) return false;
  if (q.rope == nullptr) return true;
  if (q.rope->attrs != k.rope->attrs || q.rope->operand(2) != k.rope->operand(2)) return false;
  return q.rope->operand(1) == append.operand(2) && k.rope->operand(1) == append.operand(2) &&
         is_leaf(q.rope->operand(2));
}

RopeAppendAttrs attrs_of(const Part& q, const Part& k) {
  RopeAppendAttrs attrs;
  attrs.heads = q.heads;
  attrs.kv_heads = k.heads;
  attrs.head_dim = q.size;
  attrs.norm = q.norm;
  if (q.norm_op != nullptr) {
    attrs.eps = q.norm_op->as<NormAttrs>().eps;
    attrs.plus_one = q.norm_op->as<NormAttrs>().plus_one;
  }
  if (q.rope != nullptr) {
    attrs.interleaved = q.rope->as<RopeAttrs>().interleaved;
    attrs.scale = q.rope->as<RopeAttrs>().scale;
  }
  return attrs;
}

bool fuse(Graph& graph, Graph::Iterator append_at, Op& attention) {
  const Op& append = **append_at;
  if (append.operand(6) == nullptr || append.operand(6) != attention.operand(5)) return false;
  Value* query = attention.operand(0);
  Part q, k, v;
  if (!is_private(graph, query) || !find_part(graph, query, &q)) return false;
  if (!find_part(graph, append.operand(0), &k) || !find_part(graph, append.operand(1), &v))
    return false;
  if (!layout_fits(q, k, v) || !treatment_fits(q, k, v, append)) return false;
  const auto weight = [](const Part& part) {
    return part.norm_op == nullptr ? nullptr : part.norm_op->operand(1);
  };
  ir::GraphBuilder builder(graph, append_at);
  builder.set_loc(append.loc);
  Value* rotated = builder.value(
      OpKind::rope_append,
      {q.qkv, append.operand(2), q.rope == nullptr ? nullptr : q.rope->operand(2), weight(q),
       weight(k), append.operand(3), append.operand(4), append.operand(5), append.operand(6)},
      attrs_of(q, k));
  replace_uses(graph, query, rotated);
  erase(graph, append_at);  // it writes state, so no sweep would take it
  return true;
}

}  // namespace

bool fuse_rope_append(ir::Module& module, const PassContext&) {
  Graph* graph = step_graph(module);
  if (graph == nullptr) return false;
  bool changed = false;
  std::map<const Value*, Graph::Iterator>
      appends;  // by key state: the last one so far; only looked up
  for (auto it = graph->ops.begin(); it != graph->ops.end(); ++it) {
    Op& op = **it;
    if (op.kind == OpKind::kv_append) appends[op.operand(5)] = it;
    if (op.kind != OpKind::attention) continue;
    const auto append = appends.find(op.operand(4));
    if (append == appends.end() || !fuse(*graph, append->second, op)) continue;
    appends.erase(append);
    changed = true;
  }
  return changed;
}

}  // namespace shunt::passes
