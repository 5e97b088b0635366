// A residual add and the norm after it become one op: the sum is written once and not read back.
//
//   %h = pointwise %x, %y {expr = "x0 + x1"} : f32[T, 64]
//   %n = rms_norm %h, @w {eps = 1e-06} : f32[T, 64]                       =>
//
//   %h, %n = add_norm %x, %y, @w {eps = 1e-06} : f32[T, 64], f32[T, 64]
//
// Also for layer_norm (kind = layer, with or without a bias). The sum may have other users, and
// keeps its name. Entry point: fuse_add_norm. Tested by tests/passes/fuse_add_norm.mir.
#include "passes/passes.h"
#include "passes/rewrite.h"

namespace shunt::passes {

using ir::OpKind;

bool fuse_add_norm(ir::Module& module, const PassContext&) {
  ir::Graph* graph = step_graph(module);
  if (graph == nullptr) return false;
  bool changed = false;
  for (const auto& norm : graph->ops) {
    if (norm->kind != OpKind::rms_norm && norm->kind != OpKind::layer_norm) continue;
    const ir::Op* add = producer(norm->operand(0), OpKind::pointwise);
    if (add == nullptr || !is_residual_add(*add)) continue;
    if (add->result()->type.rank() != 2) continue;
    // The fused op stands where the add was, because others may use the sum before the norm does.
    if (!is_leaf(norm->operand(1)) || !is_leaf(norm->operand(2))) continue;
    const auto& a = norm->as<ir::NormAttrs>();
    const bool layer = norm->kind == OpKind::layer_norm;
    ir::GraphBuilder builder(*graph, ir::find(*graph, add));
    builder.set_loc(norm->loc);
    std::vector<ir::Value*> operands = {add->operand(0), add->operand(1), norm->operand(1)};
    if (norm->operand(2) != nullptr) operands.push_back(norm->operand(2));
    const ir::Op* fused = builder.op(
        OpKind::add_norm, operands,
        ir::AddNormAttrs{layer ? ir::NormKind::layer : ir::NormKind::rms, a.eps, a.plus_one});
    replace_uses(*graph, add->result(), fused->result(0));
    replace_uses(*graph, norm->result(), fused->result(1));
    changed = true;
  }
  return changed;
}

}  // namespace shunt::passes
