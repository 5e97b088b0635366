// `cpu` rows of linear, head_linear, routed_linear, route_sort and grouped_linear. Test:
// tests/runtime/host/emit_test.cpp.
#include "codegen/emit/cpu.h"

namespace shunt::codegen {
namespace {

using ir::Op;
using ir::OpKind;

template <class Attrs, size_t kFirstExtra>
bool supports(const Op& op, const Context& c) {
  return cpu_expression(op, c, op.as<Attrs>().epilogue, kFirstExtra);
}

void emit_linear(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::LinearAttrs>();
  const Type& w = op.operand(1)->type;
  const Type& out = op.result()->type;
  HostArgs(b)
      .value(op.operand(0))
      .weight(op.operand(1))
      .integer(row_count(out))
      .integer(w.shape[0])
      .integer(w.shape[1])
      .flag(a.glu)
      .expr(a.epilogue)
      .value(op.result())
      .extras(op, 2, out, false)
      .call("linear");
}

void emit_head_linear(const Op& op, StepBuilder& b) {
  const Type& w = op.operand(1)->type;
  HostArgs(b)
      .value(op.operand(0))
      .weight(op.operand(1))
      .integer(op.operand(0)->type.shape[0])
      .integer(w.shape[0])
      .integer(w.shape[1])
      .integer(w.shape[2])
      .value(op.result())
      .call("head_linear");
}

void emit_routed_linear(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::LinearAttrs>();
  const Type& w = op.operand(1)->type;
  const Type& ids = op.operand(2)->type;
  const Type& out = op.result()->type;
  // x has a row a token, which its k routes share, or a row a route.
  const int64_t divide = op.operand(0)->type.shape[0] == ids.shape[0] ? ids.shape[1].constant() : 1;
  HostArgs(b)
      .value(op.operand(0))
      .weight(op.operand(1))
      .value(op.operand(2))
      .integer(ids.elements())
      .integer(divide)
      .integer(w.shape[0])
      .integer(w.shape[1])
      .integer(w.shape[2])
      .flag(a.glu)
      .expr(a.epilogue)
      .value(op.result())
      .extras(op, 3, out, true)
      .call("routed_linear");
}

void emit_route_sort(const Op& op, StepBuilder& b) {
  HostArgs(b)
      .value(op.operand(0))
      .integer(op.operand(0)->type.elements())
      .integer(op.as<ir::RouteSortAttrs>().experts)
      .value(op.result(0))
      .value(op.result(1))
      .call("route_sort");
}

void emit_grouped_linear(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::GroupedLinearAttrs>();
  const Type& w = op.operand(1)->type;
  HostArgs(b)
      .value(op.operand(0))
      .weight(op.operand(1))
      .value(op.operand(2))
      .value(op.operand(3))
      .integer(op.operand(3)->type.shape[0])
      .integer(a.gather)
      .flag(a.scatter)
      .integer(w.shape[0])
      .integer(w.shape[1])
      .integer(w.shape[2])
      .flag(a.glu)
      .expr(a.epilogue)
      .value(op.result())
      .extras(op, 4, op.result()->type, true)
      .call("grouped_linear");
}

}  // namespace

std::vector<KernelImpl> cpu_linear_kernels() {
  return {
      {"linear.cpu", OpKind::linear, supports<ir::LinearAttrs, 2>, cpu_seconds, emit_linear},
      {"head_linear.cpu", OpKind::head_linear, cpu_types, cpu_seconds, emit_head_linear},
      {"routed_linear.cpu", OpKind::routed_linear, supports<ir::LinearAttrs, 3>, cpu_seconds,
       emit_routed_linear},
      {"route_sort.cpu", OpKind::route_sort, cpu_types, cpu_seconds, emit_route_sort},
      {"grouped_linear.cpu", OpKind::grouped_linear, supports<ir::GroupedLinearAttrs, 4>,
       cpu_seconds, emit_grouped_linear},
  };
}

}  // namespace shunt::codegen
