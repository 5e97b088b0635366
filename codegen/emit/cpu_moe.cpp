// `cpu` rows of topk_gate, norm_gate and combine_routes. Test: tests/runtime/host/emit_test.cpp.
#include "codegen/emit/cpu.h"
#include "runtime/plan/host_kernels.h"

namespace shunt::codegen {
namespace {

using ir::Op;
using ir::OpKind;

static_assert(static_cast<int>(HostScore::sigmoid) == static_cast<int>(ir::ScoreFunction::sigmoid));
static_assert(static_cast<int>(HostScore::sqrt_softplus) ==
              static_cast<int>(ir::ScoreFunction::sqrt_softplus));
static_assert(static_cast<int>(HostScore::identity) ==
              static_cast<int>(ir::ScoreFunction::identity));
static_assert(static_cast<int>(HostScore::sparse_mixer) ==
              static_cast<int>(ir::ScoreFunction::sparse_mixer));
static_assert(static_cast<int>(HostRouteNorm::sum) == static_cast<int>(ir::RouteNorm::sum));
static_assert(static_cast<int>(HostRouteNorm::softmax) == static_cast<int>(ir::RouteNorm::softmax));
static_assert(static_cast<int>(HostGroupScore::top2_sum) ==
              static_cast<int>(ir::GroupScore::top2_sum));

static_assert(static_cast<int>(HostDrop::order) == static_cast<int>(ir::Drop::order));
static_assert(static_cast<int>(HostDrop::score) == static_cast<int>(ir::Drop::score));
static_assert(static_cast<int>(HostDrop::random) == static_cast<int>(ir::Drop::random));

/// From selection_bias to counts: the part that topk_gate and norm_gate share.
void add_gate(HostArgs& args, const Op& op, const ir::TopkGateAttrs& a, size_t bias,
              const Type& logits, size_t result, StepBuilder& b) {
  args.weight(op.operand(bias))
      .value(op.operand(bias + 1))
      .integer(logits.shape[0])
      .true_size(logits.shape[0])
      .integer(logits.shape[1])
      .integer(a.k)
      .integer(static_cast<int64_t>(a.score))
      .integer(static_cast<int64_t>(a.norm))
      .real(a.norm_eps)
      .real(a.norm_min)
      .real(a.scale)
      .real(a.jitter)
      .integer(a.groups)
      .integer(a.keep_groups)
      .integer(static_cast<int64_t>(a.group_score))
      .value(op.result(result))
      .value(op.result(result + 1))
      .arg(b.route_counts(logits.shape[1].constant()));
}

void emit_topk_gate(const Op& op, StepBuilder& b) {
  HostArgs args(b);
  args.value(op.operand(0));
  const auto& a = op.as<ir::TopkGateAttrs>();
  add_gate(args, op, a, 1, op.operand(0)->type, 0, b);
  args.integer(static_cast<int64_t>(a.drop))
      .real(a.capacity_factor * static_cast<double>(a.k))
      .integer(a.min_capacity)
      .flag(a.sample_second)
      .integer(a.seed);
  args.call("topk_gate");
}

void emit_norm_gate(const Op& op, StepBuilder& b) {
  const auto& a = op.as<ir::NormGateAttrs>();
  const Type& x = op.operand(0)->type;
  HostArgs args(b);
  args.value(op.operand(0))
      .value(op.operand(1))
      .weight(op.operand(2))
      .weight(op.operand(3))
      .weight(op.operand(4))
      .integer(x.shape[0])
      .integer(x.shape[1])
      .real(a.eps)
      .flag(a.plus_one)
      .value(op.result(0))
      .value(op.result(1))
      .value(op.result(2));
  add_gate(args, op, a, 5, op.result(2)->type, 3, b);
  args.call("norm_gate");
}

void emit_combine_routes(const Op& op, StepBuilder& b) {
  const Type& ids = op.operand(2)->type;
  HostArgs(b)
      .value(op.operand(0))
      .value(op.operand(1))
      .value(op.operand(2))
      .value(op.operand(3))
      .integer(ids.shape[0])
      .integer(ids.shape[1])
      .integer(op.result()->type.last())
      .value(op.result())
      .call("combine_routes");
}

}  // namespace

std::vector<KernelImpl> cpu_moe_kernels() {
  return {
      {"topk_gate.cpu", OpKind::topk_gate, cpu_types, cpu_seconds, emit_topk_gate},
      {"norm_gate.cpu", OpKind::norm_gate, cpu_types, cpu_seconds, emit_norm_gate},
      {"combine_routes.cpu", OpKind::combine_routes, cpu_types, cpu_seconds, emit_combine_routes},
  };
}

}  // namespace shunt::codegen
