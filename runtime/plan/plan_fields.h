// The keys of plan.json, each struct's listed once: plan_json.cpp writes by these lists,
// plan_read.cpp reads by them. A visitor `v` is called as v("key", member) for every key, in file
// order.
#pragma once

#include <array>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "runtime/plan/plan.h"

namespace shunt::plan_fields {

template <class V>
void describe(V& v, DimDecl& d) {
  v("name", d.name);
  v("min", d.min);
  v("max", d.max);
}
template <class V>
void describe(V& v, PlanFile& f) {
  v("name", f.name);
  v("size", f.size);
  v("header_digest", f.header_digest);
}
template <class V>
void describe(V& v, Buffer& b) {
  v("name", b.name);
  v("arena", b.arena);
  v("offset", b.offset);
  v("bytes", b.bytes);
  v("type", b.type);
}
template <class V>
void describe(V& v, StateDecl& s) {
  v("name", s.name);
  v("kind", s.kind);
  v("row", s.row);
}
template <class V>
void describe(V& v, Port& p) {
  v("role", p.role);
  v("buffer", p.buffer);
  v("output", p.output);
}
template <class V>
void describe(V& v, Kernel& k) {
  v("name", k.name);
  v("digest", k.digest);
}
template <class V>
void describe(V& v, Limits& l) {
  v("max_model_len", l.max_model_len);
  v("max_num_seqs", l.max_num_seqs);
  v("max_num_batched_tokens", l.max_num_batched_tokens);
  v("max_logit_rows", l.max_logit_rows);
  v("page_size", l.page_size);
}
template <class V>
void describe(V& v, ModelInfo& m) {
  v("name", m.name);
  v("vocab_size", m.vocab_size);
  v("eos_ids", m.eos_ids);
  v("bos_id", m.bos_id);
  v("layers", m.layers);
  v("experts", m.experts);
  v("experts_per_token", m.experts_per_token);
  v("moe_layers", m.moe_layers);
  v("parameters", m.parameters);
  v("active_parameters", m.active_parameters);
}
template <class V>
void describe(V& v, Launch& l) {
  v("kernel", l.kernel);
  v("grid", l.grid);
  v("threads", l.threads);
  v("smem", l.smem);
  v("cluster", l.cluster);
  v("dependent", l.dependent);
  v("args", l.args);
}
template <class V>
void describe(V& v, Matmul& m) {
  v("x", m.x);
  v("w", m.w);
  v("c", m.c);
  v("bias", m.bias);
  v("d", m.d);
  v("x_type", m.x_type);
  v("w_type", m.w_type);
  v("d_type", m.d_type);
  v("m", m.m);
  v("n", m.n);
  v("k", m.k);
  v("workspace_bytes", m.workspace_bytes);
  v("workspace", m.workspace);
}
template <class V>
void describe(V& v, Copy& c) {
  v("from", c.from);
  v("to", c.to);
  v("size", c.bytes);
}
template <class V>
void describe(V& v, Fill& f) {
  v("to", f.to);
  v("size", f.bytes);
  v("value", f.value);
}
template <class V>
void describe(V& v, Constant& c) {
  v("to", c.to);
  v("values", c.values);
}
template <class V>
void describe(V& v, Dequantize& d) {
  v("payload", d.payload);
  v("scale", d.scale);
  v("result", d.result);
  v("scale_file", d.scale_file);
  v("scale_tensor", d.scale_tensor);
  v("scale_offset", d.scale_offset);
  v("scale_pitch", d.scale_pitch);
  v("group_rows", d.group_rows);
  v("group_columns", d.group_columns);
  v("first_row", d.first_row);
  v("row_step", d.row_step);
  v("first_column", d.first_column);
  v("column_step", d.column_step);
}
template <class V>
void describe(V& v, Read& r) {
  v("file", r.file);
  v("tensor", r.tensor);
  v("from_offset", r.from_offset);
  v("from_pitch", r.from_pitch);
  v("to", r.to);
  v("to_pitch", r.to_pitch);
  v("rows", r.rows);
  v("row_bytes", r.row_bytes);
  v("from_stride", r.from_stride);
  v("transpose_rows", r.transpose_rows);
  v("element_bytes", r.element_bytes);
  v("dequantize", r.dequantize);
}
template <class V>
void describe(V& v, Collective& c) {
  v("op", c.kind);
  v("over", c.over);
  v("from", c.from);
  v("to", c.to);
  v("count", c.count);
  v("dtype", c.dtype);
}
template <class V>
void describe(V& v, Mesh& m) {
  v("dp", m.dp);
  v("tp", m.tp);
  v("ep", m.ep);
  v("etp", m.etp);
}
template <class V>
void describe(V& v, Step& s) {
  v("name", s.name);
  v("loc", s.loc);
  v("rank", s.rank);
  v.step_kind(s.what);  // "kind", and the keys of that kind
  v("bytes", s.bytes);
  v("flops", s.flops);
  v("writes", s.writes);
}
template <class V>
void describe(V& v, Program& p) {
  v("name", p.name);
  v("graph", p.graph);
  v("decode", p.decode);
  v("workspace_bytes", p.workspace_bytes);
  v("dims", p.dims);
  v("steps", p.steps);
}
template <class V>
void describe(V& v, Plan& p) {
  v("format", p.format);
  v("compiler", p.compiler);
  v("target", p.target);
  v("activation_dtype", p.activation_dtype);
  v("model_directory", p.model_directory);
  v("model", p.model);
  v("limits", p.limits);
  v("mesh", p.mesh);
  v("kept_whole", p.kept_whole);
  v("rank_tables", p.rank_tables);
  v("weights_bytes", p.weights_bytes);
  v("workspace_bytes", p.workspace_bytes);
  v("io_bytes", p.io_bytes);
  v("counters_bytes", p.counters_bytes);
  v("peer_bytes", p.peer_bytes);
  v("dims", p.dims);
  v("files", p.files);
  v("states", p.states);
  v("ports", p.ports);
  v("kernels", p.kernels);
  v("buffers", p.buffers);
  v("programs", p.programs);
}

inline constexpr std::array<std::string_view, 2> kStateKindNames = {"paged", "slot"};
inline constexpr std::array<std::string_view, kArenas> kArenaNames = {"weights", "workspace", "io",
                                                                      "counters", "peer"};
// In the order of StepKind.
inline constexpr std::array<std::string_view, std::variant_size_v<StepKind>> kStepKindNames = {
    "launch", "matmul", "copy", "fill", "constant", "read", "collective"};
inline constexpr std::array<std::string_view, 4> kCollectiveNames = {
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all"};

template <class T>
constexpr bool kOneALine =
    std::is_same_v<T, PlanFile> || std::is_same_v<T, Buffer> || std::is_same_v<T, StateDecl> ||
    std::is_same_v<T, Port> || std::is_same_v<T, Kernel> || std::is_same_v<T, Program> ||
    std::is_same_v<T, Step>;
template <class T>
struct IsSequence : std::false_type {};
template <class T>
struct IsSequence<std::vector<T>> : std::true_type {};
/// null where there is none.
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T, size_t N>
struct IsSequence<std::array<T, N>> : std::true_type {};

}  // namespace shunt::plan_fields
