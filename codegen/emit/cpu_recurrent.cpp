// `cpu` rows of causal_conv and gated_delta_rule. Test: tests/kernels/op_cpu_test.cpp.
#include "codegen/emit/cpu.h"
#include "runtime/plan/host_kernels.h"

namespace shunt::codegen {
namespace {

using ir::Op;
using ir::OpKind;

bool supports_causal_conv(const Op& op, const Context& c) {
  return cpu_expression(op, c, op.as<ir::CausalConvAttrs>().epilogue, op.operands.size());
}
void emit_causal_conv(const Op& op, StepBuilder& b) {
  const Type& w = op.operand(1)->type;
  HostArgs args(b);
  args.value(op.operand(0)).weight(op.operand(1)).weight(op.operand(2));
  for (size_t i = 3; i < 7; ++i) args.value(op.operand(i));
  args.integer(op.operand(5)->type.shape[0])
      .integer(w.shape[0])
      .integer(w.shape[1])
      .expr(op.as<ir::CausalConvAttrs>().epilogue)
      .value(op.result())
      .call("causal_conv");
}

void emit_gated_delta_rule(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::GatedDeltaRuleAttrs>();
  const Type& state = op.operand(6)->type;  // one row
  HostArgs args(b);
  for (const ir::Value* value : op.operands) args.value(value);
  args.integer(op.operand(5)->type.shape[0])
      .integer(a.key_heads)
      .integer(state.shape[0])
      .integer(state.shape[1])
      .integer(state.shape[2])
      .real(a.scale)
      .flag(a.qk_l2norm)
      .real(a.eps)
      .value(op.result())
      .call("gated_delta_rule");
}

}  // namespace

std::vector<KernelImpl> cpu_recurrent_kernels() {
  return {
      {"causal_conv.cpu", OpKind::causal_conv, supports_causal_conv, cpu_seconds, emit_causal_conv},
      {"gated_delta_rule.cpu", OpKind::gated_delta_rule, cpu_types, cpu_seconds,
       emit_gated_delta_rule},
  };
}

}  // namespace shunt::codegen
