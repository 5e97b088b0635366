// Bias, activation and residual after a linear become its epilogue: computed on the accumulator, in
// float32.
//
//   %a = linear %x, @w : f32[T, 64]
//   %b = pointwise %a, @bias {expr = "x0 + x1"} : f32[T, 64]
//   %h = pointwise %b {expr = "gelu(x0)"} : f32[T, 64]                     =>
//
//   %h = linear %x, @w, @bias {epilogue = "gelu(acc + x0)"} : f32[T, 64]
//
// Works on linear, routed_linear and grouped_linear, one pointwise op at a time, as long as nobody
// else looks at the value in between. Entry point: fuse_linear_epilogue. Tested by
// tests/passes/fuse_linear_epilogue.mir.
#include "passes/passes.h"
#include "passes/rewrite.h"

namespace shunt::passes {

using ir::Graph;
using ir::Op;
using ir::OpKind;
using ir::Value;

namespace {

/// True if every operand but `index` can be an extra operand of `linear`: a row vector, or as large
/// as the result. An expert's extra operands have a row an expert, so a pointwise op's never
/// qualify.
bool others_fit(const Op& pointwise, size_t index, const Op& linear) {
  const Type& type = pointwise.result()->type;
  for (size_t i = 0; i < pointwise.operands.size(); ++i) {
    if (i == index) continue;
    if (linear.kind != OpKind::linear) return false;
    const Type& t = pointwise.operand(i)->type;
    const bool row = t.rank() == 1 && t.last() == type.last();
    if (!row && t.shape != type.shape) return false;
  }
  return true;
}

/// Index of an operand that is a linear's result and may disappear; -1 if there is none.
int linear_operand(const Graph& graph, const Op& pointwise) {
  for (size_t i = 0; i < pointwise.operands.size(); ++i) {
    const Value* value = pointwise.operand(i);
    if (value->def == nullptr || !is_linear(*value->def)) continue;
    if (!is_private(graph, value) || value->type.shape != pointwise.result()->type.shape) continue;
    if (others_fit(pointwise, i, *value->def)) return static_cast<int>(i);
  }
  return -1;
}

}  // namespace

bool fuse_linear_epilogue(ir::Module& module, const PassContext&) {
  Graph* graph = step_graph(module);
  if (graph == nullptr) return false;
  bool changed = false;
  for (auto it = graph->ops.begin(); it != graph->ops.end(); ++it) {
    const Op& pointwise = **it;
    if (pointwise.kind != OpKind::pointwise) continue;
    const int index = linear_operand(*graph, pointwise);
    if (index < 0) continue;
    const Op& linear = *pointwise.operand(index)->def;
    Extras extras;
    const Expr inner = epilogue_of(linear, extras);
    const Expr epilogue = pointwise_over(pointwise, index, inner, extras);
    std::vector<Value*> operands(linear.operands.begin(),
                                 linear.operands.begin() + first_extra(linear));
    operands.insert(operands.end(), extras.values().begin(), extras.values().end());
    // At the pointwise op, where all its operands exist.
    ir::GraphBuilder builder(*graph, it);
    builder.set_loc(linear.loc);
    Value* result =
        builder.value(linear.kind, operands,
                      with_epilogue(linear, epilogue, pointwise.as<ir::PointwiseAttrs>().out));
    replace_uses(*graph, pointwise.result(), result);
    changed = true;
  }
  return changed;
}

}  // namespace shunt::passes
