// How axes, heads and experts are dealt out to ranks.
#include <gtest/gtest.h>

#include "passes/place/layout.h"

namespace shunt::passes {
namespace {

using Runs = std::vector<ir::Runs>;

TEST(Layout, EvenPartsAreRoundWhereThatCostsNothing) {
  EXPECT_EQ(split_even(MeshAxis::tp, 768, 4).runs,
            (Runs{{0, 192}, {192, 384}, {384, 576}, {576, 768}}));
  EXPECT_EQ(split_even(MeshAxis::tp, 10, 3).size(), 4);
  const Layout vocabulary = split_even(MeshAxis::tp, 151936, 3);
  EXPECT_TRUE(vocabulary.is_partition());
  EXPECT_EQ(vocabulary.runs[0][1] % 128, 0);
  EXPECT_LE(vocabulary.size(), 151936 / 3 * 51 / 50);
  EXPECT_TRUE(split_even(MeshAxis::tp, 2, 4).is_partition());  // ranks without a part
}

TEST(Layout, UnitsStayWhole) {
  const Layout l = split_even(MeshAxis::tp, 40, 3, 8);
  EXPECT_TRUE(l.is_partition());
  EXPECT_TRUE(l.divisible_by(8));
  EXPECT_EQ(l.divided_by(8).times(8), l);
}

/// Query head i of a rank must read kv head i / (heads / kv heads) of that rank.
void expect_consistent(int64_t heads, int64_t kv_heads, int parts) {
  const HeadSplit s = split_heads(MeshAxis::tp, heads, kv_heads, parts);
  EXPECT_TRUE(s.q.is_partition());
  ASSERT_EQ(s.q.size() % s.kv.size(), 0) << heads << " " << kv_heads << " " << parts;
  const int64_t local = s.q.size() / s.kv.size(), global = heads / kv_heads;
  for (size_t r = 0; r < static_cast<size_t>(parts); ++r) {
    for (int64_t i = 0; i < s.q.count(r); ++i) {
      const int64_t head = s.q.runs[r][0] + i, kv = s.kv.runs[r][0] + i / local;
      EXPECT_EQ(kv, head / global) << heads << " " << kv_heads << " " << parts << " rank " << r;
      EXPECT_LT(kv, s.kv.runs[r][1]);
    }
  }
}

TEST(Layout, HeadsOnAnyNumberOfRanks) {
  for (const auto& [heads, kv] : {std::pair{4, 4}, {8, 2}, {12, 3}, {16, 1}, {40, 8}, {7, 7}}) {
    for (int parts = 1; parts <= 9; ++parts) expect_consistent(heads, kv, parts);
  }
}

TEST(Layout, ASharedKvHeadIsKeptBySeveralRanks) {
  const HeadSplit s = split_heads(MeshAxis::tp, 8, 2, 4);
  EXPECT_EQ(s.kv.runs, (Runs{{0, 1}, {0, 1}, {1, 2}, {1, 2}}));
  EXPECT_EQ(s.q.runs, (Runs{{0, 2}, {2, 4}, {4, 6}, {6, 8}}));
  EXPECT_FALSE(s.kv.is_partition());
}

TEST(Layout, ExpertsByList) {
  const ExpertMapLayer layer{0, {{{1, 1}}, {{0, 0.25}, {1, 0.75}}, {{0, 1}}, {{0, 1}}}};
  const Layout experts = expert_layout(layer, 2);
  EXPECT_EQ(experts.runs, (Runs{{1, 4}, {0, 2}}));
  EXPECT_EQ(route_table(layer, experts, 2),
            (std::vector<double>{1, 0, 1,    0, 0, 0,  // expert 0: slot 0 of rank 1
                                 0, 0, 0.25, 1, 1, 1,  // expert 1: a quarter in slot 0 of rank 0
                                 0, 1, 1,    0, 0, 0,  //
                                 0, 2, 1,    0, 0, 0}));
}

}  // namespace
}  // namespace shunt::passes
