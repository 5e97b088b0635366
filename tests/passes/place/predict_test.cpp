// Figures of the step-time prediction.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "passes/place/predict.h"

namespace shunt::passes {
namespace {

TEST(Predict, DistinctExperts) {
  EXPECT_DOUBLE_EQ(distinct_experts(128, 8, 1, 128, 1), 8);
  EXPECT_NEAR(distinct_experts(128, 8, 8, 128, 1), 51.6, 0.1);  // 128 (1 - (15/16)^8)
  // The fullest of four ranks, by simulation (docs/performance.md): 1.22 times the mean of 12.9.
  EXPECT_NEAR(distinct_experts(128, 8, 8, 32, 4), 12.9 * 1.22, 0.6);
  EXPECT_LE(distinct_experts(8, 2, 64, 2, 4), 2);
  EXPECT_LE(distinct_experts(64, 8, 1, 16, 4), 8);
}

TEST(Predict, CollectivesGrowWithRanksAndBytes) {
  const Target& h200 = find_target("sm_90a");
  const auto reduce = [&](double bytes, int ranks) {
    return collective_seconds(ir::OpKind::all_reduce, bytes, ranks, h200);
  };
  EXPECT_EQ(reduce(1e6, 1), 0);
  EXPECT_NEAR(reduce(4096, 2), 9.2e-6, 1e-6);     // measured
  EXPECT_NEAR(reduce(4096, 4), 12.0e-6, 1.2e-6);  // measured
  EXPECT_GT(reduce(8 << 20, 4), reduce(8 << 20, 2));
}

TEST(Predict, HalfTheWeightsOnTwoRanks) {
  const auto module = [](const char* mesh, int rows, const char* sum) {
    return ir::parse(fmt::format(R"mir(module @m stage(placed)
{}dim T in [1, 8]
dim S in [1, 8]
dim R in [1, 8]
param @w : bf16[{}, 65536]
graph @step.decode.8(%x : bf16[T, 65536]) dims(T in [1, 8]) {{
  %y = linear %x, @w : bf16[T, {}]
{}}}
)mir",
                                 mesh, rows, rows, sum));
  };
  const auto one = module("", 65536, "  return %y\n");
  const auto two =
      module("mesh dp 1 tp 2 ep 1 etp 2\n", 32768,
             "  %s = all_reduce %y {over = world, ranks = 2} : bf16[T, 32768]\n  return %s\n");
  const Target& h200 = find_target("sm_90a");
  const StepPrediction a = predict_decode(*one, h200, {8, 128});
  const StepPrediction b = predict_decode(*two, h200, {8, 128});
  EXPECT_NEAR(b.dense / a.dense, 0.5, 0.01);
  EXPECT_EQ(a.communication, 0);
  EXPECT_GT(b.communication, 0);
}

}  // namespace
}  // namespace shunt::passes
