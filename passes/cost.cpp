// The default cost model: a roofline from the target's figures. Entry point: RooflineCostModel
// (passes/pass.h). Tested by tests/passes/cost_test.cpp.
#include <algorithm>

#include "ir/expert_load.h"
#include "passes/pass.h"

namespace shunt::passes {

namespace {

constexpr double kRoutesOfChosen = 1.1;  // from so many routes a chosen expert on, sorting wins

bool is_matmul(ir::OpKind kind) {
  using ir::OpKind;
  return kind == OpKind::linear || kind == OpKind::routed_linear ||
         kind == OpKind::grouped_linear || kind == OpKind::attention;
}

}  // namespace

double RooflineCostModel::seconds(const ir::Op& op, const ir::Graph&, const DimEnv& at) const {
  const ir::Cost cost = op.info().cost(op);
  const double bytes = static_cast<double>(cost.bytes.evaluate(at));
  const double flops = static_cast<double>(cost.flops.evaluate(at));
  const double rate = is_matmul(op.kind) ? target_.matmul_flops_per_s : target_.vector_flops_per_s;
  return std::max(bytes / target_.memory_bytes_per_s, flops / rate) + target_.launch_seconds;
}

/// Sorted, an expert's weights are read once if it is chosen at all, by tensor cores; unsorted,
/// once for a few routes at most, but without a sort before it:
/// - GPU: sorted from a tenth more routes than chosen experts on. Measured on an H200 by
///   bench/expert_bench.cpp (docs/performance.md): Qwen3-30B with 1, 2, 4, 8 tokens (ratios 1, 1.04,
///   1.1, 1.24) takes 26, 43, 77, 137 us a layer unsorted and 36, 48, 76, 123 us sorted.
/// - cpu: above two routes an expert, and from 9 tokens on: a sort costs nothing there.
bool RooflineCostModel::sorted_routes_win(int64_t tokens, int64_t choices, int64_t experts) const {
  const double routes = static_cast<double>(tokens * choices);
  const double e = static_cast<double>(experts);
  if (target_.is_cpu()) return tokens > 8 || routes > 2 * e;
  const ir::ExpertLoad load{experts, experts, choices};
  return routes > kRoutesOfChosen * load.chosen(tokens);
}

}  // namespace shunt::passes
