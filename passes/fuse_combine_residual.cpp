// The residual add after combine_routes becomes its last operand: one read and one write of [T, H]
// less.
//
//   %m = combine_routes %y, %w, %ids, none : f32[T, 64]
//   %h = pointwise %x, %m {expr = "x0 + x1"} : f32[T, 64]       =>
//
//   %h = combine_routes %y, %w, %ids, %x : f32[T, 64]
//
// Entry point: fuse_combine_residual. Tested by tests/passes/fuse_combine_residual.mir.
#include "passes/passes.h"
#include "passes/rewrite.h"

namespace shunt::passes {

using ir::OpKind;
using ir::Value;

bool fuse_combine_residual(ir::Module& module, const PassContext&) {
  ir::Graph* graph = step_graph(module);
  if (graph == nullptr) return false;
  bool changed = false;
  for (auto it = graph->ops.begin(); it != graph->ops.end(); ++it) {
    const ir::Op& add = **it;
    if (!is_residual_add(add)) continue;
    for (size_t i : {0, 1}) {
      const ir::Op* combine = producer(add.operand(i), OpKind::combine_routes);
      if (combine == nullptr || combine->operand(3) != nullptr) continue;
      if (!is_private(*graph, combine->result())) continue;
      // At the add, where the residual exists whatever the order of the two.
      ir::GraphBuilder builder(*graph, it);
      builder.set_loc(combine->loc);
      Value* sum = builder.value(OpKind::combine_routes, {combine->operand(0), combine->operand(1),
                                                          combine->operand(2), add.operand(1 - i)});
      replace_uses(*graph, add.result(), sum);
      changed = true;
      break;
    }
  }
  return changed;
}

}  // namespace shunt::passes
