// Where many routes meet at an expert, routes are sorted by expert and the experts run as grouped
// matmuls.
//
//   %h = routed_linear %x, @w13, %ids {...} : f32[2*T, 64]
//   %y = routed_linear %h, @w2, %ids : f32[2*T, 32]              =>
//
//   %off, %rows = route_sort %ids {experts = 8} : i32[9], i32[2*T]
//   %h = grouped_linear %x, @w13, %off, %rows {..., gather = 2} : f32[2*T, 64]      (sorted)
//   %y = grouped_linear %h, @w2, %off, %rows {scatter = true} : f32[2*T, 32]        (by route)
//
// Decided per step graph, at its upper bound of T, by CostModel::sorted_routes_win. Entry point:
// choose_routing. Tested by tests/passes/choose_routing.mir.
#include <algorithm>
#include <map>

#include "ir/expert_load.h"
#include "passes/passes.h"
#include "passes/rewrite.h"

namespace shunt::passes {

using ir::Graph;
using ir::GroupedLinearAttrs;
using ir::Module;
using ir::Op;
using ir::OpKind;
using ir::Value;

namespace {

/// Only tokens are dynamic in ids[T, k], so the bound of a graph is the bound of its T.
bool wins(const Module& module, const Graph& graph, const Op& routed, const CostModel& cost) {
  const Type& ids = routed.operand(2)->type;
  DimEnv upper;
  for (const auto& [name, factor] : ids.shape[0].terms()) upper[name] = module.dim(graph, name).max;
  // Of a rank's experts a rank's share of the routes is chosen: the model's figures decide.
  const int64_t experts = ir::expert_load(routed).experts;
  return cost.sorted_routes_win(ids.shape[0].evaluate(upper), ids.last().constant(), experts);
}

/// True if only another routed linear with the same ids reads the result, so that it can stay
/// sorted.
bool stays_sorted(const Graph& graph, const Op& routed) {
  const Value* result = routed.result();
  if (!is_private(graph, result)) return false;
  const Op& user = *result->users[0];
  return user.kind == OpKind::routed_linear && user.operand(0) == result &&
         user.operand(2) == routed.operand(2) &&
         user.operand(1)->type.shape[0] == routed.operand(1)->type.shape[0];
}

/// gather: 0 for rows that a grouped_linear left sorted, else how many routes read a row.
int64_t gather_of(const Op& routed) {
  const Value* x = routed.operand(0);
  if (const Op* before = producer(x, OpKind::grouped_linear)) {
    if (!before->as<GroupedLinearAttrs>().scatter) return 0;
  }
  const Type& ids = routed.operand(2)->type;
  return x->type.shape[0] == ids.shape[0] ? ids.last().constant() : 1;
}

/// One sort per ids, before their first use.
const Op& sorted_routes(Graph& graph, Graph::Iterator at,
                        std::map<const Value*, const Op*>& sorts) {
  const Op& routed = **at;
  Value* ids = routed.operand(2);
  const Op*& sort = sorts[ids];
  if (sort == nullptr) {
    ir::GraphBuilder builder(graph, at);
    builder.set_loc(routed.loc);
    const int64_t experts = routed.operand(1)->type.shape[0].constant();
    sort = builder.op(OpKind::route_sort, {ids}, ir::RouteSortAttrs{experts}, {"offsets", "rows"});
  }
  return *sort;
}

void regroup(Graph& graph, Graph::Iterator at, const Op& sort) {
  const Op& routed = **at;
  const auto& a = routed.as<ir::LinearAttrs>();
  std::vector<Value*> operands = {routed.operand(0), routed.operand(1), sort.result(0),
                                  sort.result(1)};
  operands.insert(operands.end(), routed.operands.begin() + first_extra(routed),
                  routed.operands.end());
  ir::GraphBuilder builder(graph, at);
  builder.set_loc(routed.loc);
  const GroupedLinearAttrs attrs{a.epilogue, a.glu, a.out, gather_of(routed),
                                 !stays_sorted(graph, routed)};
  replace_uses(graph, routed.result(), builder.value(OpKind::grouped_linear, operands, attrs));
}

}  // namespace

bool choose_routing(Module& module, const PassContext& context) {
  bool changed = false;
  for (const auto& graph : module.graphs) {
    if (!graph->name.starts_with("step")) continue;
    std::map<const Value*, const Op*> sorts;  // by ids; only looked up
    for (auto it = graph->ops.begin(); it != graph->ops.end(); ++it) {
      if ((*it)->kind != OpKind::routed_linear) continue;
      if (!wins(module, *graph, **it, context.cost)) continue;
      regroup(*graph, it, sorted_routes(*graph, it, sorts));
      changed = true;
    }
  }
  return changed;
}

}  // namespace shunt::passes
