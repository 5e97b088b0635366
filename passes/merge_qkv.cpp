// Three linears of one input that feed one attention become one linear, with a slice for each part.
//
//   %q = linear %x, @q : f32[T, 64]
//   %k = linear %x, @k : f32[T, 32]
//   %v = linear %x, @v : f32[T, 32]                                     =>
//
//   %qkv = linear %x, @qkv : f32[T, 128]
//   %q = slice %qkv {axis = 1, end = 64} : f32[T, 64]
//   %k = slice %qkv {axis = 1, begin = 64, end = 96} : f32[T, 32]
//   %v = slice %qkv {axis = 1, begin = 96, end = 128} : f32[T, 32]
//
// Pointwise ops that all three have alike (a bias, a clamp) are merged with them. Entry point:
// merge_qkv. Tested by tests/passes/merge_qkv.mir.
#include <algorithm>
#include <array>

#include "passes/passes.h"
#include "passes/rewrite.h"

namespace shunt::passes {

using ir::Graph;
using ir::GraphBuilder;
using ir::Module;
using ir::Op;
using ir::OpKind;
using ir::Value;

namespace {

using Parts = std::array<Value*, 3>;  // q, k, v

/// A linear and the pointwise ops after it, in program order; `value` is the last result.
struct Projection {
  Value* value = nullptr;
  Op* linear = nullptr;
  std::vector<Op*> pointwise;
};

/// A bias, a clamp: the other operands are parameters as wide as a row.
bool is_row_op(const Op& op) {
  return std::all_of(op.operands.begin() + 1, op.operands.end(),
                     [](const Value* v) { return v->is_param() && v->type.rank() == 1; });
}

/// The projection that an attention's operand comes from, seen through rope, norm and reshape.
bool find_projection(const Graph& graph, Value* value, Projection* out) {
  while (producer(value, OpKind::rope) || producer(value, OpKind::rms_norm) ||
         producer(value, OpKind::reshape)) {
    value = value->def->operand(0);
  }
  out->value = value;
  while (const Op* op = producer(value, OpKind::pointwise)) {
    if (!is_row_op(*op)) return false;
    out->pointwise.insert(out->pointwise.begin(), value->def);
    value = op->operand(0);
    if (!is_private(graph, value)) return false;
  }
  out->linear = producer(value, OpKind::linear);
  return out->linear != nullptr;
}

/// The op that last appended to the states that `attention` reads, and the three values.
bool find_qkv(const Graph& graph, const Op& attention, Parts* parts) {
  const Op* append = nullptr;
  for (const auto& op : graph.ops) {
    if (op.get() == &attention) break;
    if (op->kind == OpKind::kv_append && op->operand(5) == attention.operand(4)) append = op.get();
  }
  if (append == nullptr || append->operand(6) == nullptr) return false;  // no values of their own
  if (append->operand(6) != attention.operand(5)) return false;
  *parts = {attention.operand(0), append->operand(0), append->operand(1)};
  return true;
}

using Projections = std::array<Projection, 3>;

std::vector<Value*> operands_at(const Projections& all, size_t level, size_t operand) {
  std::vector<Value*> values;
  for (const Projection& p : all) values.push_back(p.pointwise[level]->operand(operand));
  return values;
}

bool alike(const Module& module, const Projections& all) {
  std::vector<Value*> weights;
  for (const Projection& p : all) {
    const Op& first = *all[0].linear;
    if (p.linear->operand(0) != first.operand(0) || p.linear->attrs != first.attrs) return false;
    if (p.linear->operands.size() != 2 || has_glu(*p.linear)) return false;
    if (p.pointwise.size() != all[0].pointwise.size()) return false;
    for (size_t i = 0; i < p.pointwise.size(); ++i) {
      if (p.pointwise[i]->attrs != all[0].pointwise[i]->attrs) return false;
    }
    weights.push_back(p.linear->operand(1));
  }
  if (all[0].linear == all[1].linear || all[0].linear == all[2].linear ||
      all[1].linear == all[2].linear)
    return false;
  if (!can_merge(module, weights, 0)) return false;
  for (size_t level = 0; level < all[0].pointwise.size(); ++level) {
    for (size_t i = 1; i < all[0].pointwise[level]->operands.size(); ++i) {
      if (!can_merge(module, operands_at(all, level, i), 0)) return false;
    }
  }
  return true;
}

/// At the first of the three linears: its input is there, and no user of the parts comes before it.
Graph::Iterator first_linear(Graph& graph, const Projections& all) {
  return std::find_if(graph.ops.begin(), graph.ops.end(), [&](const auto& op) {
    return std::any_of(all.begin(), all.end(),
                       [&](const Projection& p) { return p.linear == op.get(); });
  });
}

void merge(Module& module, Graph& graph, const Projections& all) {
  std::vector<Value*> weights;
  std::vector<std::string> names;
  for (const Projection& p : all) {
    weights.push_back(p.linear->operand(1));
    names.push_back(p.value->name);
  }
  const Op& linear = *all[0].linear;
  GraphBuilder builder(graph, first_linear(graph, all));
  builder.set_loc(linear.loc);
  const size_t levels = all[0].pointwise.size();
  const auto name_at = [&](size_t level) { return level == levels ? joined_name(names) : ""; };
  Value* merged =
      builder.value(OpKind::linear, {linear.operand(0), merge_params(module, weights, 0)},
                    linear.attrs, name_at(0));
  for (size_t level = 0; level < levels; ++level) {
    const Op& op = *all[0].pointwise[level];
    std::vector<Value*> operands = {merged};
    for (size_t i = 1; i < op.operands.size(); ++i) {
      operands.push_back(merge_params(module, operands_at(all, level, i), 0));
    }
    merged = builder.value(OpKind::pointwise, operands, op.attrs, name_at(level + 1));
  }
  int64_t begin = 0;
  for (const Projection& p : all) {
    const int64_t end = begin + p.value->type.last().constant();
    Value* part =
        builder.value(OpKind::slice, {merged}, ir::SliceAttrs{1, begin, end}, p.value->name);
    replace_uses(graph, p.value, part);
    begin = end;
  }
}

}  // namespace

bool merge_qkv(Module& module, const PassContext&) {
  Graph* graph = step_graph(module);
  if (graph == nullptr) return false;
  bool changed = false;
  for (const auto& op : graph->ops) {
    if (op->kind != OpKind::attention) continue;
    Parts parts;
    if (!find_qkv(*graph, *op, &parts)) continue;
    Projections all;
    bool found = true;
    for (size_t i = 0; i < all.size(); ++i)
      found = found && find_projection(*graph, parts[i], &all[i]);
    if (!found || !alike(module, all)) continue;
    merge(module, *graph, all);
    changed = true;
  }
  return changed;
}

}  // namespace shunt::passes
