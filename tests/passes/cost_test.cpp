// The roofline cost model: which of memory and arithmetic bounds an op, and when sorting routes
// pays.
#include <gtest/gtest.h>

#include "passes/pass.h"

namespace shunt::passes {
namespace {

const Target kTarget{.name = "toy",
                     .kind = Target::Kind::cuda,
                     .memory_bytes_per_s = 1e6,
                     .matmul_flops_per_s = 1e6,
                     .vector_flops_per_s = 1e5,
                     .launch_seconds = 1};

double seconds(const char* op, int64_t tokens) {
  const auto module = ir::parse(
      std::string("module @m stage(logical)\ndim T in [1, 1000]\nparam @w : f32[100, 100]\n") +
      "graph @step(%x : f32[T, 100]) {\n" + op + "\n  return %y\n}\n");
  const ir::Graph& graph = *module->graphs[0];
  return RooflineCostModel(kTarget).seconds(*graph.ops.front(), graph, {{"T", tokens}});
}

TEST(Roofline, OneRowIsBoundByWeights) {
  const double bytes = 100 * 100 * 4 + 2 * 100 * 4;
  EXPECT_NEAR(seconds("%y = linear %x, @w {out = f32} : f32[T, 100]", 1), 1 + bytes / 1e6, 1e-9);
}

TEST(Roofline, ManyRowsAreBoundByArithmetic) {
  EXPECT_NEAR(seconds("%y = linear %x, @w {out = f32} : f32[T, 100]", 1000), 1 + 2e7 / 1e6, 1e-9);
}

TEST(Roofline, OtherOpsRunOutsideTensorCores) {
  const double one =
      seconds("%y = pointwise %x {expr = \"x0 + 1\", out = f32} : f32[T, 100]", 1000);
  EXPECT_NEAR(one, 1 + 3e5 / 1e5, 1e-9);  // 3 nodes an element
}

TEST(SortedRoutes, GpuSortsWhereRoutesMeet) {
  const RooflineCostModel cost(find_target("sm_90a"));
  EXPECT_FALSE(cost.sorted_routes_win(1, 2, 8));    // one token's experts are distinct
  EXPECT_TRUE(cost.sorted_routes_win(2, 2, 8));     // 4 routes, 3.5 experts
  EXPECT_FALSE(cost.sorted_routes_win(4, 8, 128));  // 32 routes, 29.2 experts
  EXPECT_TRUE(cost.sorted_routes_win(8, 8, 128));   // 64 routes, 51.6 experts
  EXPECT_TRUE(cost.sorted_routes_win(4, 1, 1));  // one expert for all
}

TEST(SortedRoutes, CpuSortsFromNineTokens) {
  const RooflineCostModel cost(find_target("cpu"));
  EXPECT_FALSE(cost.sorted_routes_win(8, 8, 128));
  EXPECT_TRUE(cost.sorted_routes_win(9, 8, 128));
  EXPECT_FALSE(cost.sorted_routes_win(8, 2, 8));
  EXPECT_TRUE(cost.sorted_routes_win(5, 2, 4));
}

}  // namespace
}  // namespace shunt::passes
