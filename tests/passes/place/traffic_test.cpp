// Bytes and seconds of a step, by hand-worked examples, and the MoE layers of a module.
#include "passes/place/traffic.h"

#include <gtest/gtest.h>

#include "passes/place/moe_shapes.h"

namespace shunt::passes {
namespace {

const Target kTarget{.name = "toy",
                     .kind = Target::Kind::cuda,
                     .memory_bytes_per_s = 1000,
                     .matmul_flops_per_s = 1000};
constexpr MoeShape kShape{.layer = 0,
                          .experts = 4,
                          .choices = 1,
                          .row_bytes = 10,
                          .expert_bytes = 50,
                          .expert_flops = 20};

StepEstimate estimate(const ExpertMapLayer& map, std::vector<double> load, int nodes,
                      double tokens) {
  return estimate_step(kShape, map, load, 4, nodes, tokens, kTarget, 100);
}

TEST(Traffic, OneHotExpert) {
  // All 8 tokens go to rank 0, which starts with 2 of them: 6 rows in, 6 partial sums out. No other
  // rank receives a row; each sends its 2.
  const StepEstimate e = estimate(contiguous_experts(0, 4, 4), {1, 0, 0, 0}, 1, 8);
  EXPECT_DOUBLE_EQ(e.link_bytes_max, 60);
  EXPECT_DOUBLE_EQ(e.link_bytes_mean, (60 + 3 * 20) / 4.0);
  EXPECT_DOUBLE_EQ(e.node_bytes_max, 0);
  EXPECT_DOUBLE_EQ(e.link_seconds, 2 * 60 / 100.0);
  EXPECT_DOUBLE_EQ(e.expert_seconds, 8 * 20 / 1000.0);  // arithmetic, above one expert's 50 bytes
}

TEST(Traffic, ReplicasSplitRowsAndReadWeightsTwice) {
  ExpertMapLayer map = contiguous_experts(0, 4, 4);
  map.experts[0] = {{0, 0.5}, {1, 0.5}};
  const StepEstimate e = estimate(map, {1, 0, 0, 0}, 1, 8);
  EXPECT_DOUBLE_EQ(e.link_bytes_max, (3 * 2 * 0.5 + 2 * 0.5) * 10);
  EXPECT_DOUBLE_EQ(e.expert_seconds, 4 * 20 / 1000.0);
}

TEST(Traffic, FewTokensAreBoundByWeights) {
  const StepEstimate e = estimate(contiguous_experts(0, 4, 4), {1, 0, 0, 0}, 1, 1);
  EXPECT_DOUBLE_EQ(e.expert_seconds, 50 / 1000.0);
}

TEST(Traffic, NodesCountOnlyWhatLeavesThem) {
  // Of 8 tokens, the 4 that start on node 1 cross to node 0.
  EXPECT_DOUBLE_EQ(estimate(contiguous_experts(0, 4, 4), {1, 0, 0, 0}, 2, 8).node_bytes_max, 40);
}

TEST(MoeShapes, ReadOffTheGraph) {
  const auto module = ir::parse(R"(module @m stage(logical)
dim T in [1, 64]
param @router : f32[8, 16]
param @gate : bf16[8, 32, 16]
param @up : bf16[8, 32, 16]
param @down : bf16[8, 16, 32]
graph @step(%x : bf16[T, 16]) {
  at "model.layers.3.mlp"
  %router_logits.0 = linear %x, @router {out = f32} : f32[T, 8]
  %w, %ids = topk_gate %router_logits.0, none, none {k = 2, groups = 4, keep_groups = 2} : f32[T, 2], i32[T, 2]
  %g = routed_linear %x, @gate, %ids : bf16[2*T, 32]
  %u = routed_linear %x, @up, %ids : bf16[2*T, 32]
  %h = pointwise %g, %u {expr = "silu(x0) * x1"} : bf16[2*T, 32]
  %d = routed_linear %h, @down, %ids : bf16[2*T, 16]
  %y = combine_routes %d, %w, %ids, none : bf16[T, 16]
  return %y
}
)");
  const std::vector<MoeShape> shapes = moe_shapes(*module);
  ASSERT_EQ(shapes.size(), 1u);
  EXPECT_EQ(shapes[0].layer, 3);
  EXPECT_EQ(shapes[0].experts, 8);
  EXPECT_EQ(shapes[0].choices, 2);
  EXPECT_EQ(shapes[0].groups, 4);
  EXPECT_EQ(shapes[0].row_bytes, 16 * 2);
  EXPECT_EQ(shapes[0].expert_bytes, 3 * 32 * 16 * 2);
  EXPECT_EQ(shapes[0].expert_flops, 2 * 3 * 32 * 16);
}

}  // namespace
}  // namespace shunt::passes
