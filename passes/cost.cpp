// The default cost model: a roofline from the target's figures. Entry point: RooflineCostModel
// (passes/pass.h). Tested by tests/passes/cost_test.cpp.
#include <algorithm>

#include "passes/pass.h"

namespace shunt::passes {

namespace {

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

/// One route at a time, an expert's weights are read once a route; sorted, once an expert, at the
/// price of the sort and of matmul tiles that are mostly empty while an expert has one or two rows.
/// So sorting wins when routes meet:
/// - GPU: above two routes an expert on average. Below that, the weights of an expert that is
///   chosen twice mostly come from L2 the second time.
/// - cpu: also from 9 tokens on, whatever the number of experts: a sort costs nothing there.
bool RooflineCostModel::sorted_routes_win(int64_t tokens, int64_t choices, int64_t experts) const {
  if (target_.is_cpu() && tokens > 8) return true;
  return tokens * choices > 2 * experts;
}

}  // namespace shunt::passes
