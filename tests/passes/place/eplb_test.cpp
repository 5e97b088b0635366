// EPLB's published rules, by hand-worked examples.
#include "passes/place/eplb.h"

#include <gtest/gtest.h>

namespace shunt::passes {
namespace {

using Loads = std::vector<double>;

TEST(Eplb, PackingPutsTheHeaviestIntoTheLightestPackWithRoom) {
  // 9 -> pack 0; 8 -> 1; 7 -> 1 (8 < 9), which is full then; 1 -> 0.
  EXPECT_EQ(balanced_packing(Loads{1, 9, 8, 7}, 2), (std::vector<int>{0, 0, 1, 1}));
}

TEST(Eplb, PackingOfUnevenCountsRoundsRoomUp) {
  // 3 packs of at most 2: 5 -> 0, 4 -> 1, 3 -> 2, 2 -> 2 (3 + 2), 1 -> 1 (4 + 1).
  EXPECT_EQ(balanced_packing(Loads{5, 4, 3, 2, 1}, 3), (std::vector<int>{0, 1, 2, 2, 1}));
}

TEST(Eplb, ReplicatesTheLargestLoadAReplica) {
  // 12 -> 6 each; then 7 -> 3.5 each; then 6 -> 4 each.
  EXPECT_EQ(replicate_experts(Loads{12, 7, 1}, 6), (std::vector<int>{3, 2, 1}));
}

TEST(Eplb, MergesReplicasOnOneRank) {
  // Expert 0 has three of four slots, so one rank has it twice: 2/3 of its load there.
  const ExpertMapLayer map = eplb_experts(5, Loads{9, 1}, 2, 2, 1, 1);
  EXPECT_EQ(map.layer, 5);
  ASSERT_EQ(map.experts[0].size(), 2u);
  EXPECT_DOUBLE_EQ(map.experts[0][0].share, 2.0 / 3);
  EXPECT_EQ(map.experts[1], (std::vector<ExpertReplica>{{1, 1.0}}));
}

TEST(Eplb, HierarchicalKeepsGroupsOnNodes) {
  // Groups of two with loads 10, 2, 9, 3: nodes {0, 1} and {2, 3} by packing 10+2, 9+3.
  const ExpertMapLayer map = eplb_experts(0, Loads{5, 5, 1, 1, 5, 4, 2, 1}, 4, 0, 2, 4);
  for (int e = 0; e < 4; ++e) EXPECT_LT(map.experts[e][0].rank, 2) << e;
  for (int e = 4; e < 8; ++e) EXPECT_GE(map.experts[e][0].rank, 2) << e;
}

TEST(Eplb, GroupsThatNodesDoNotDivideAreIgnored) {
  const Loads load{5, 5, 1, 1, 5, 4};
  EXPECT_EQ(eplb_experts(0, load, 2, 0, 2, 3), eplb_experts(0, load, 2, 0, 1, 1));
}

}  // namespace
}  // namespace shunt::passes
