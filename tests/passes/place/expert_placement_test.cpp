// The planner against EPLB's rules, its own promises, and the clock.
#include "passes/place/expert_placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <random>

#include "ir/error.h"
#include "passes/place/eplb.h"
#include "passes/place/pack.h"

namespace shunt::passes {
namespace {

using Loads = std::vector<double>;

Loads lognormal(std::mt19937& random, int experts, double sigma) {
  std::lognormal_distribution<double> draw(0, sigma);
  Loads out(experts);
  for (double& x : out) x = std::floor(1000 * draw(random));
  return out;
}

double balance(const ExpertMapLayer& map, const Loads& load, int ranks) {
  return max_over_mean(rank_loads(map, load, ranks));
}

/// The map with every expert's load spread evenly over its ranks: what becomes of EPLB's map if a
/// dispatcher counts merged replicas once.
ExpertMapLayer with_even_shares(ExpertMapLayer map) {
  for (auto& replicas : map.experts) {
    for (ExpertReplica& r : replicas) r.share = 1.0 / static_cast<double>(replicas.size());
  }
  return map;
}

/// Legal, and no rank above its capacity, no more replicas than asked for.
void check_promises(const ExpertMapLayer& map, const PlacementOptions& o) {
  validate(ExpertMap{o.ranks, o.nodes, {map}});
  const int capacity = expert_capacity(map.expert_count(), o);
  for (int r = 0; r < o.ranks; ++r) {
    const int held = static_cast<int>(map.experts_on(r).size());
    EXPECT_LE(held, capacity) << "rank " << r;
    EXPECT_GE(held, map.expert_count() >= o.ranks ? 1 : 0) << "rank " << r;
  }
  EXPECT_LE(map.redundant(), o.redundant);
}

TEST(ExpertPlacement, NeverWorseThanEplbOnAThousandProfiles) {
  std::mt19937 random(1);
  const auto pick = [&](std::initializer_list<int> of) { return of.begin()[random() % of.size()]; };
  int better = 0;
  for (int i = 0; i < 1000; ++i) {
    const int experts = pick({4, 8, 16, 17, 32, 60, 61, 64, 100, 128, 160, 256});
    const int ranks = pick({1, 2, 3, 4, 5, 6, 7, 8, 16, 32});
    const int redundant = i % 3 == 0 ? 0 : static_cast<int>(random() % (2 * ranks + 1));
    Loads load = lognormal(random, experts, 0.25 * static_cast<double>(1 + random() % 8));
    if (i % 5 == 0) {
      for (int j = 0; j < experts / 3; ++j) load[random() % experts] = 0;
    }
    const PlacementOptions options{.ranks = ranks, .redundant = redundant};
    const ExpertMapLayer ours = plan_experts(0, load, options);
    const ExpertMapLayer eplb = eplb_experts(0, load, ranks, redundant, 1, 1);
    SCOPED_TRACE(fmt::format("profile {}: {} experts, {} ranks, {} redundant", i, experts, ranks,
                             redundant));
    check_promises(ours, options);
    const double mine = balance(ours, load, ranks), theirs = balance(eplb, load, ranks);
    EXPECT_LE(mine, theirs * (1 + 1e-9));
    EXPECT_LE(mine, balance(with_even_shares(eplb), load, ranks) * (1 + kWorthAReplica));
    better += mine < theirs * (1 - 1e-6);
  }
  EXPECT_GT(better, 500);
}

TEST(ExpertPlacement, NeverWorseThanHierarchicalEplb) {
  std::mt19937 random(2);
  for (int i = 0; i < 200; ++i) {
    const int nodes = 1 << (random() % 3), ranks = nodes * static_cast<int>(1 + random() % 8);
    const int experts = 64 * static_cast<int>(1 + random() % 4);
    const PlacementOptions options{
        .ranks = ranks, .nodes = nodes, .redundant = static_cast<int>(random() % 33), .groups = 8};
    const Loads load = lognormal(random, experts, 1.0);
    const ExpertMapLayer ours = plan_experts(0, load, options);
    const ExpertMapLayer eplb = eplb_experts(0, load, ranks, options.redundant, nodes, 8);
    SCOPED_TRACE(
        fmt::format("profile {}: {} experts, {} ranks, {} nodes", i, experts, ranks, nodes));
    check_promises(ours, options);
    EXPECT_LE(balance(ours, load, ranks), balance(eplb, load, ranks) * (1 + 1e-9));
  }
}

TEST(ExpertPlacement, GroupsStayOnOneNodeEvenIfTheyDoNotDivide) {
  std::mt19937 random(3);
  const Loads load = lognormal(random, 64, 1.0);
  const PlacementOptions options{.ranks = 6, .nodes = 3, .redundant = 4, .groups = 8};
  const ExpertMapLayer map = plan_experts(0, load, options);
  check_promises(map, options);
  for (int g = 0; g < 8; ++g) {
    const int node = map.experts[g * 8][0].rank / 2;
    for (int e = g * 8; e < g * 8 + 8; ++e) {
      for (const ExpertReplica& r : map.experts[e]) EXPECT_EQ(r.rank / 2, node) << "expert " << e;
    }
  }
}

TEST(ExpertPlacement, SplitsAHotExpertByShares) {
  // One expert has half of all routes. Alone on its rank it is twice the mean; on two ranks of two
  // slots each half of it sits beside another expert: 30 + 10 of a mean of 30.
  const Loads load{60, 10, 10, 10, 10, 10, 10};
  EXPECT_DOUBLE_EQ(balance(plan_experts(0, load, {.ranks = 4}), load, 4), 2);
  EXPECT_NEAR(balance(plan_experts(0, load, {.ranks = 4, .redundant = 1}), load, 4), 4.0 / 3, 1e-9);
}

TEST(ExpertPlacement, BalancedLoadsGetNoReplicas) {
  const Loads load(16, 100.0);
  EXPECT_EQ(plan_experts(0, load, {.ranks = 4, .redundant = 4}).redundant(), 0);
}

TEST(ExpertPlacement, MoreReplicasThanRanksAreOfNoUse) {
  const Loads load{60, 10, 20, 10, 5, 10, 15};
  EXPECT_EQ(plan_experts(0, load, {.ranks = 4, .redundant = 1000}),
            plan_experts(0, load, {.ranks = 4, .redundant = 7 * 3}));
}

TEST(ExpertPlacement, FewerExpertsThanRanks) {
  const Loads load{5, 3};
  const PlacementOptions none{.ranks = 4};
  check_promises(plan_experts(0, load, none), none);
  const PlacementOptions some{.ranks = 4, .redundant = 2};
  EXPECT_NEAR(balance(plan_experts(0, load, some), load, 4), 1.25, 1e-9);  // 2.5 2.5 1.5 1.5
}

TEST(ExpertPlacement, NoRoutesAtAllIsSpreadByCount) {
  const PlacementOptions options{.ranks = 3};
  check_promises(plan_experts(0, Loads(8, 0.0), options), options);
}

TEST(ExpertPlacement, KeepsTheCurrentMapWhereMovesDoNotPay) {
  std::mt19937 random(4);
  const Loads load = lognormal(random, 64, 1.0);
  const ExpertMapLayer now = contiguous_experts(0, 64, 4);
  PlacementOptions options{.ranks = 4, .current = &now, .move_price = 10};
  EXPECT_EQ(plan_experts(0, load, options), now);
  options.move_price = 0.02;  // a moved expert must save 2 % of the mean load
  const ExpertMapLayer some = plan_experts(0, load, options);
  options.move_price = 0;
  const ExpertMapLayer all = plan_experts(0, load, options);
  const int few = moved_experts(now, some), many = moved_experts(now, all);
  EXPECT_GT(few, 0);
  EXPECT_LT(few, many);
  const double before = balance(now, load, 4), after = balance(some, load, 4);
  EXPECT_LT(after + 0.02 * few, before);
  EXPECT_LE(balance(all, load, 4), after);
}

TEST(ExpertPlacement, RenamesRanksToMoveLess) {
  // The best map of these loads with ranks reversed is as good as any: nothing needs to move.
  std::mt19937 random(5);
  const Loads load = lognormal(random, 32, 1.0);
  ExpertMapLayer now = plan_experts(0, load, {.ranks = 4});
  for (auto& replicas : now.experts) replicas[0].rank = 3 - replicas[0].rank;
  const PlacementOptions options{.ranks = 4, .current = &now, .move_price = 1e-9};
  EXPECT_EQ(moved_experts(now, plan_experts(0, load, options)), 0);
}

TEST(ExpertPlacement, CurrentReplicasBeyondTheSlotsAreDropped) {
  ExpertMapLayer now{0, {{{0, 0.5}, {1, 0.5}}, {{0, 0.5}, {1, 0.5}}, {{0, 1}}, {{1, 1}}}};
  const PlacementOptions options{.ranks = 2, .current = &now, .move_price = 1};
  const ExpertMapLayer map = plan_experts(0, Loads{4, 4, 1, 1}, options);
  check_promises(map, options);
  EXPECT_EQ(moved_experts(now, map), 0);
}

TEST(ExpertPlacement, AssignmentIsTheBestOfAllPermutations) {
  std::mt19937 random(6);
  for (int i = 0; i < 50; ++i) {
    const int n = 1 + static_cast<int>(random() % 6);
    std::vector<int> value(n * n);
    for (int& v : value) v = static_cast<int>(random() % 20);
    const auto sum = [&](const std::vector<int>& columns) {
      int total = 0;
      for (int r = 0; r < n; ++r) total += value[r * n + columns[r]];
      return total;
    };
    std::vector<int> columns(n);
    for (int c = 0; c < n; ++c) columns[c] = c;
    int best = 0;
    do best = std::max(best, sum(columns));
    while (std::next_permutation(columns.begin(), columns.end()));
    EXPECT_EQ(sum(best_assignment(value, n)), best);
  }
}

TEST(ExpertPlacement, SaysWhichOptionCannotBeMet) {
  const Loads load(16, 1.0);
  EXPECT_THROW(plan_experts(0, load, {.ranks = 4, .nodes = 3}), UserError);
  EXPECT_THROW(plan_experts(0, load, {.ranks = 4, .groups = 3}), UserError);
  EXPECT_THROW(plan_experts(0, load, {.ranks = 4, .redundant = -1}), UserError);
  const ExpertMapLayer other = contiguous_experts(0, 8, 4);
  EXPECT_THROW(plan_experts(0, load, {.ranks = 4, .current = &other}), UserError);
}

TEST(ExpertPlacement, SixtyOneLayersOf256On64RanksTakeLessThanASecond) {
  std::mt19937 random(7);
  std::vector<Loads> layers;
  for (int l = 0; l < 61; ++l) layers.push_back(lognormal(random, 256, 1.0));
  const std::clock_t start = std::clock();  // processor time: the machine may be busy
  for (const Loads& load : layers) plan_experts(0, load, {.ranks = 64, .redundant = 64});
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 1.0);
}

}  // namespace
}  // namespace shunt::passes
