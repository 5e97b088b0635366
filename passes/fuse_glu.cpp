// Gate and up linears, and the pointwise op that joins them, become one linear with a GLU epilogue.
//
//   %g = linear %x, @gate : f32[T, 64]
//   %u = linear %x, @up : f32[T, 64]                             =>
//   %h = pointwise %g, %u {expr = "silu(x0) * x1"} : f32[T, 64]
//
//   %h = linear %x, @gate_up {epilogue = "silu(gate) * up", glu = true} : f32[T, 64]
//
// The same for routed_linear, whose stacked experts are joined expert by expert (axis 1). A
// linear's own epilogue and pointwise ops between the linears and the joining op (a bias) are
// folded into the expression. Entry point: fuse_glu. Tested by tests/passes/fuse_glu.mir.
#include <algorithm>

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

/// One of the two sides: the linear, and the pointwise ops from it to the joining op, in program
/// order.
struct Half {
  Op* linear = nullptr;
  std::vector<Op*> pointwise;
};

bool is_row(const Value* value) { return value->is_param() && value->type.rank() == 1; }

bool find_half(const Graph& graph, Value* value, Half* half) {
  for (;;) {
    if (!is_private(graph, value) || value->def == nullptr) return false;
    Op* op = value->def;
    if (op->kind == OpKind::linear || op->kind == OpKind::routed_linear) {
      half->linear = op;
      return !has_glu(*op);
    }
    if (op->kind != OpKind::pointwise) return false;
    if (!std::all_of(op->operands.begin() + 1, op->operands.end(), is_row)) return false;
    half->pointwise.insert(half->pointwise.begin(), op);
    value = op->operand(0);
  }
}

/// A routed linear's extra operands have a row an expert, so a plain row vector cannot become one.
bool only_rows_of_linear(const Half& half) {
  if (half.linear->kind == OpKind::linear) return true;
  return std::all_of(half.pointwise.begin(), half.pointwise.end(),
                     [](const Op* op) { return op->operands.size() == 1; });
}

bool fits(const Module& module, const Half& gate, const Half& up) {
  const Op &g = *gate.linear, &u = *up.linear;
  if (&g == &u || g.kind != u.kind || g.operand(0) != u.operand(0)) return false;
  const bool routed = g.kind == OpKind::routed_linear;
  if (routed && g.operand(2) != u.operand(2)) return false;
  if (g.operand(1)->type != u.operand(1)->type) return false;
  if (!only_rows_of_linear(gate) || !only_rows_of_linear(up)) return false;
  return can_merge(module, std::vector<Value*>{g.operand(1), u.operand(1)}, routed ? 1 : 0);
}

/// What a side computes, over `name` ("gate" or "up") and extra operands.
Expr side(const Half& half, const std::string& name, Extras& extras) {
  Expr expr = substitute_all(epilogue_of(*half.linear, extras), {{"acc", Expr::parse(name)}});
  for (const Op* op : half.pointwise) expr = pointwise_over(*op, 0, expr, extras);
  return expr;
}

void fuse(Module& module, Graph& graph, Graph::Iterator at, const Half& gate, const Half& up) {
  const Op &joining = **at, &linear = *gate.linear;
  const bool routed = linear.kind == OpKind::routed_linear;
  Extras extras;
  const Expr first = side(gate, "gate", extras);
  const Expr second = side(up, "up", extras);
  const auto& pointwise = joining.as<ir::PointwiseAttrs>();
  const Expr expr = substitute_all(Expr::parse(pointwise.expr), {{"x0", first}, {"x1", second}});

  const std::vector<Value*> weights = {linear.operand(1), up.linear->operand(1)};
  std::vector<Value*> operands = {linear.operand(0), merge_params(module, weights, routed ? 1 : 0)};
  if (routed) operands.push_back(linear.operand(2));
  operands.insert(operands.end(), extras.values().begin(), extras.values().end());
  GraphBuilder builder(graph, at);
  builder.set_loc(linear.loc);
  Value* result =
      builder.value(linear.kind, operands, ir::LinearAttrs{expr.to_string(), true, pointwise.out});
  replace_uses(graph, joining.result(), result);
}

}  // namespace

bool fuse_glu(Module& module, const PassContext&) {
  Graph* graph = step_graph(module);
  if (graph == nullptr) return false;
  bool changed = false;
  for (auto it = graph->ops.begin(); it != graph->ops.end(); ++it) {
    const Op& op = **it;
    if (op.kind != OpKind::pointwise || op.operands.size() != 2) continue;
    Half gate, up;
    if (!find_half(*graph, op.operand(0), &gate) || !find_half(*graph, op.operand(1), &up))
      continue;
    if (!fits(module, gate, up)) continue;
    fuse(module, *graph, it, gate, up);
    changed = true;
  }
  return changed;
}

}  // namespace shunt::passes
