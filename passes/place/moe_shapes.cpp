// Reads a MoE layer off its gate and the matmuls that use the gate's ids. Entry point:
// moe_shapes(). Tested by tests/passes/place/traffic_test.cpp.
#include "passes/place/moe_shapes.h"

#include <algorithm>
#include <charconv>

#include "ir/error.h"

namespace shunt::passes {

namespace {

MoeShape shape_of(const ir::Op& gate) {
  const ir::Value* logits = gate.operand(0);
  const auto& attrs = gate.as<ir::TopkGateAttrs>();
  MoeShape shape;
  shape.layer = layer_number(gate.loc);
  shape.experts = static_cast<int>(logits->type.last().constant());
  shape.choices = static_cast<int>(attrs.k);
  shape.groups = static_cast<int>(attrs.groups);
  const ir::Value* ids = gate.result(1);
  for (const ir::Op* user : ids->users) {
    if (user->kind == ir::OpKind::routed_linear && user->operand(2) == ids) {
      const Type& weight = user->operand(1)->type;
      const int64_t elements = weight.elements().constant() / shape.experts;
      shape.expert_bytes += elements * dtype_bytes(weight.dtype);
      shape.expert_flops += 2 * elements;
    } else if (user->kind == ir::OpKind::combine_routes) {
      const Type& row = user->result()->type;
      shape.row_bytes = row.last().constant() * dtype_bytes(row.dtype);
    }
  }
  SHUNT_CHECK(shape.expert_bytes > 0 && shape.row_bytes > 0,
              "layer {}: no expert reads the gate's ids", shape.layer);
  return shape;
}

}  // namespace

int layer_number(const std::string& loc) {
  for (size_t at = 0; at < loc.size();) {
    const size_t end = std::min(loc.find('.', at), loc.size());
    int number = -1;
    const auto [stop, error] = std::from_chars(loc.data() + at, loc.data() + end, number);
    if (error == std::errc() && stop == loc.data() + end && number >= 0) return number;
    at = end + 1;
  }
  internal_error(__FILE__, __LINE__, "\"{}\" names no layer", loc);
}

std::vector<MoeShape> moe_shapes(const ir::Module& module) {
  const ir::Graph* step = module.find_graph("step");
  SHUNT_CHECK(step != nullptr, "a module without @step");
  std::vector<MoeShape> out;
  for (const auto& op : step->ops) {
    if (op->kind == ir::OpKind::topk_gate) out.push_back(shape_of(*op));
  }
  std::sort(out.begin(), out.end(),
            [](const MoeShape& a, const MoeShape& b) { return a.layer < b.layer; });
  return out;
}

}  // namespace shunt::passes
