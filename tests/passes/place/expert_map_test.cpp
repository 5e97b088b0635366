// Rules and arithmetic of expert maps (ir/expert_map.h).
#include "ir/expert_map.h"

#include <gtest/gtest.h>

#include "ir/error.h"

namespace shunt {
namespace {

ExpertMap two_ranks(std::vector<std::vector<ExpertReplica>> experts) {
  return {2, 1, {{0, std::move(experts)}}};
}

std::string error_of(const ExpertMap& map) {
  try {
    validate(map);
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

TEST(ExpertMap, AcceptsListsOfAnyLength) {
  EXPECT_EQ(error_of(two_ranks({{{1, 1}}, {{1, 1}}, {{0, 0.25}, {1, 0.75}}})), "");
}

TEST(ExpertMap, NamesLayerAndExpertOfABrokenRule) {
  EXPECT_EQ(error_of(two_ranks({{{0, 1}}, {}})), "layer 0, expert 1: is on no rank");
  EXPECT_EQ(error_of(two_ranks({{{2, 1}}})),
            "layer 0, expert 0: rank 2 is not one of the map's 2 ranks");
  EXPECT_EQ(error_of(two_ranks({{{1, 0.5}, {1, 0.5}}})), "layer 0, expert 0: is twice on rank 1");
  EXPECT_EQ(error_of(two_ranks({{{1, 0.5}, {0, 0.5}}})),
            "layer 0, expert 0: its ranks are not ascending");
  EXPECT_EQ(error_of(two_ranks({{{0, 0.5}, {1, 0.25}}})),
            "layer 0, expert 0: its shares sum to 0.75, not to 1");
  EXPECT_EQ(error_of(two_ranks({{{0, 1}, {1, 0}}})),
            "layer 0, expert 0: the share of rank 1 must be above 0");
  EXPECT_EQ(error_of({3, 2, {}}), "nodes must divide the 3 ranks, is 2");
  EXPECT_EQ(error_of({1, 1, {{4, {{{0, 1}}}}, {4, {{{0, 1}}}}}}),
            "layer 4: layer numbers must ascend from 0");
}

TEST(ExpertMap, ContiguousGivesTheFirstRanksTheRest) {
  const ExpertMapLayer layer = contiguous_experts(7, 8, 3);
  EXPECT_EQ(layer.layer, 7);
  EXPECT_EQ(layer.experts_on(0), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(layer.experts_on(1), (std::vector<int>{3, 4, 5}));
  EXPECT_EQ(layer.experts_on(2), (std::vector<int>{6, 7}));
  EXPECT_EQ(contiguous_experts(0, 2, 3).experts_on(2), std::vector<int>{});
}

TEST(ExpertMap, LoadsFollowShares) {
  const ExpertMap map = two_ranks({{{0, 1}}, {{0, 0.25}, {1, 0.75}}});
  EXPECT_EQ(rank_loads(map.layers[0], std::vector<double>{3, 8}, 2), (std::vector<double>{5, 6}));
  EXPECT_EQ(map.layers[0].redundant(), 1);
  EXPECT_DOUBLE_EQ(max_over_mean(std::vector<double>{5, 6}), 6 / 5.5);
  EXPECT_DOUBLE_EQ(max_over_mean(std::vector<double>{0, 0}), 1);
}

TEST(ExpertMap, MovedCountsCopiesThatMustBeSent) {
  const ExpertMap from = two_ranks({{{0, 1}}, {{0, 0.5}, {1, 0.5}}, {{1, 1}}});
  const ExpertMap to = two_ranks({{{0, 0.5}, {1, 0.5}}, {{0, 1}}, {{0, 1}}});
  EXPECT_EQ(moved_experts(from.layers[0], to.layers[0]), 2);  // expert 0 to rank 1, 2 to rank 0
  EXPECT_EQ(moved_experts(from.layers[0], from.layers[0]), 0);
}

}  // namespace
}  // namespace shunt
