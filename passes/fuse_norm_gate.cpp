// Residual add, RMS norm, router matmul and top-k become one op: the rows of a decode step stay on
// chip.
//
//   %h, %n = add_norm %x, %y, @norm : f32[T, 64], f32[T, 64]
//   %logits = linear %n, @router {out = f32} : f32[T, 8]
//   %w, %ids = topk_gate %logits, none, none {k = 2} : f32[T, 2], i32[T, 2]                =>
//
//   %h, %n, %logits, %w, %ids = norm_gate %x, %y, @norm, @router, none, none, none {k = 2} : ...
//
// Also for a plain rms_norm (y is none) and for a router with a bias as its epilogue. The normed
// rows and the logits may have other users and keep their names. Layer norms stay. Entry point:
// fuse_norm_gate. Tested by tests/passes/fuse_norm_gate.mir.
#include "passes/passes.h"
#include "passes/rewrite.h"

namespace shunt::passes {

using ir::Graph;
using ir::NormGateAttrs;
using ir::Op;
using ir::OpKind;
using ir::Value;

namespace {

/// The RMS norm a router reads, whichever op does it.
struct Norm {
  Op* op = nullptr;
  Value *x = nullptr, *y = nullptr, *weight = nullptr;
  Value* sum = nullptr;  // nullptr without a residual add
  double eps = 0;
  bool plus_one = false;
};

bool find_norm(Value* normed, Norm* norm) {
  if (Op* op = producer(normed, OpKind::rms_norm)) {
    const auto& a = op->as<ir::NormAttrs>();
    *norm = {op, op->operand(0), nullptr, op->operand(1), nullptr, a.eps, a.plus_one};
    return normed->type.rank() == 2;
  }
  Op* op = producer(normed, OpKind::add_norm);
  if (op == nullptr || op->result(1) != normed) return false;
  const auto& a = op->as<ir::AddNormAttrs>();
  *norm = {op, op->operand(0), op->operand(1), op->operand(2), op->result(0), a.eps, a.plus_one};
  return a.kind == ir::NormKind::rms;
}

/// True for a plain router matmul, with or without a bias, which is stored.
bool is_router(const Op& linear, Value** bias) {
  const auto& a = linear.as<ir::LinearAttrs>();
  *bias = linear.operand(2);
  if (a.glu || a.out != DType::f32 || linear.operands.size() > 3) return false;
  if (a.epilogue.empty()) return *bias == nullptr;
  if (*bias == nullptr || (*bias)->type.rank() != 1) return false;
  const std::string text = Expr::parse(a.epilogue).to_string();
  return text == "acc + x0" || text == "x0 + acc";
}

}  // namespace

bool fuse_norm_gate(ir::Module& module, const PassContext&) {
  Graph* graph = step_graph(module);
  if (graph == nullptr) return false;
  bool changed = false;
  for (const auto& gate : graph->ops) {
    if (gate->kind != OpKind::topk_gate) continue;
    if (gate->as<ir::TopkGateAttrs>().depends_on_batch()) continue;  // rows are not independent
    const Op* router = producer(gate->operand(0), OpKind::linear);
    Value* bias = nullptr;
    Norm norm;
    if (router == nullptr || !is_router(*router, &bias) || !find_norm(router->operand(0), &norm))
      continue;
    // The fused op stands where the norm was, so what the router and the gate read must exist
    // there.
    if (!is_leaf(norm.weight) || !is_leaf(router->operand(1)) || !is_leaf(bias)) continue;
    if (!is_leaf(gate->operand(1)) || !is_leaf(gate->operand(2))) continue;
    NormGateAttrs attrs;
    static_cast<ir::TopkGateAttrs&>(attrs) = gate->as<ir::TopkGateAttrs>();
    attrs.eps = norm.eps;
    attrs.plus_one = norm.plus_one;
    ir::GraphBuilder builder(*graph, ir::find(*graph, norm.op));
    builder.set_loc(gate->loc);
    const Op* fused = builder.op(
        OpKind::norm_gate,
        {norm.x, norm.y, norm.weight, router->operand(1), bias, gate->operand(1), gate->operand(2)},
        attrs);
    if (norm.sum != nullptr) replace_uses(*graph, norm.sum, fused->result(0));
    replace_uses(*graph, router->operand(0), fused->result(1));
    replace_uses(*graph, router->result(), fused->result(2));
    replace_uses(*graph, gate->result(0), fused->result(3));
    replace_uses(*graph, gate->result(1), fused->result(4));
    changed = true;
  }
  return changed;
}

}  // namespace shunt::passes
