// Counts of routes, chosen experts and groups, and where an op's routing is found.
#include "ir/expert_load.h"

#include <gtest/gtest.h>

#include "ir/error.h"

namespace shunt::ir {
namespace {

TEST(ExpertLoad, OneTokenTakesDistinctExperts) {
  const ExpertLoad load{128, 128, 8};
  EXPECT_DOUBLE_EQ(load.local_routes(1), 8);
  EXPECT_NEAR(load.chosen(1), 8, 1e-12);
  EXPECT_NEAR(load.groups(1, 4), 8, 1e-9);
}

TEST(ExpertLoad, RoutesMeet) {
  const ExpertLoad load{128, 128, 8};
  EXPECT_NEAR(load.chosen(8), 51.6, 0.1);    // 128 (1 - (15/16)^8)
  EXPECT_NEAR(load.groups(8, 1), 64, 1e-9);  // every route by itself
  EXPECT_NEAR(load.groups(8, 2), 53.1, 0.1);
  EXPECT_NEAR(load.groups(8, 8), load.chosen(8), 1e-9);  // no expert has more than 8
  const ExpertLoad all{8, 8, 8};
  EXPECT_NEAR(all.groups(3, 2), 16, 1e-9);  // three routes an expert: two groups
  EXPECT_NEAR(all.chosen(1000), 8, 1e-9);
}

TEST(ExpertLoad, OneOfSeveralRanks) {
  const ExpertLoad load{128, 32, 8};
  EXPECT_DOUBLE_EQ(load.local_routes(8), 16);
  EXPECT_NEAR(load.chosen(8), 12.9, 0.1);
  EXPECT_NEAR(load.groups(8, 2), 53.1 / 4, 0.1);
}

TEST(ExpertLoad, FoundBehindTheSortAndTheMap) {
  const auto module = parse(
      "module @t stage(logical)\ndim T in [1, 4]\nparam @w : f32[3, 4, 4]\nparam @t : f32[36]\n"
      "graph @g(%x : f32[T, 4], %ids : i32[T, 2], %off : i32[4], %rows : i32[2*T]) {\n"
      "  %own = local_routes %ids, @t {experts = 12} : i32[T, 2]\n"
      "  %a = routed_linear %x, @w, %ids {out = f32} : f32[2*T, 4]\n"
      "  %b = routed_linear %x, @w, %own {out = f32} : f32[2*T, 4]\n"
      "  %o, %r = route_sort %own {experts = 3} : i32[4], i32[2*T]\n"
      "  %c = grouped_linear %x, @w, %o, %r {gather = 2, out = f32} : f32[2*T, 4]\n"
      "  %d = grouped_linear %x, @w, %off, %rows {gather = 2, out = f32} : f32[2*T, 4]\n"
      "  return %a, %b, %c, %d\n}\n");
  verify(*module);
  std::vector<const Op*> ops;
  for (const auto& op : module->graphs[0]->ops) ops.push_back(op.get());
  const auto experts = [&](size_t i) { return expert_load(*ops[i]).experts; };
  EXPECT_EQ(experts(1), 3);
  EXPECT_EQ(experts(2), 12);
  EXPECT_EQ(experts(4), 12);
  EXPECT_EQ(experts(5), 3);  // nothing is known of the routes
  EXPECT_EQ(expert_load(*ops[2]).local, 3);
  EXPECT_EQ(expert_load(*ops[4]).choices, 2);
  EXPECT_EQ(route_ids(*ops[4]), ops[0]->result());
  EXPECT_EQ(route_ids(*ops[5]), nullptr);
  EXPECT_THROW(expert_load(*ops[0]), InternalError);
}

}  // namespace
}  // namespace shunt::ir
