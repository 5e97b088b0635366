// EPLB's published rules. Entry point: eplb_experts(). Tested by tests/passes/place/eplb_test.cpp.
#include "passes/place/eplb.h"

#include <algorithm>
#include <numeric>

#include "ir/error.h"

namespace shunt::passes {

namespace {

std::vector<int> by_descending(std::span<const double> weight) {
  std::vector<int> order(weight.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weight[a] > weight[b]; });
  return order;
}

/// Replicates `experts` to `slots` and packs them onto ranks [first_rank, first_rank + ranks).
void place_on_ranks(ExpertMapLayer& map, std::span<const double> load,
                    const std::vector<int>& experts, int slots, int first_rank, int ranks) {
  std::vector<double> weight;
  for (int e : experts) weight.push_back(load[e]);
  const std::vector<int> replicas = replicate_experts(weight, slots);
  std::vector<int> item_expert;  // index into `experts`
  std::vector<double> item_weight;
  for (size_t i = 0; i < experts.size(); ++i) {
    item_expert.insert(item_expert.end(), replicas[i], static_cast<int>(i));
    item_weight.insert(item_weight.end(), replicas[i], weight[i] / replicas[i]);
  }
  const std::vector<int> pack = balanced_packing(item_weight, ranks);
  std::vector<std::vector<int>> on_rank(experts.size(), std::vector<int>(ranks, 0));
  for (size_t j = 0; j < pack.size(); ++j) ++on_rank[item_expert[j]][pack[j]];
  for (size_t i = 0; i < experts.size(); ++i) {
    for (int r = 0; r < ranks; ++r) {
      if (on_rank[i][r] == 0) continue;
      map.experts[experts[i]].push_back(
          {first_rank + r, static_cast<double>(on_rank[i][r]) / replicas[i]});
    }
  }
}

}  // namespace

std::vector<int> balanced_packing(std::span<const double> weight, int packs) {
  const size_t room = (weight.size() + packs - 1) / packs;
  std::vector<int> pack_of(weight.size());
  std::vector<double> load(packs, 0.0);
  std::vector<size_t> items(packs, 0);
  for (int i : by_descending(weight)) {
    int best = -1;
    for (int p = 0; p < packs; ++p) {
      if (items[p] < room && (best < 0 || load[p] < load[best])) best = p;
    }
    pack_of[i] = best;
    load[best] += weight[i];
    ++items[best];
  }
  return pack_of;
}

std::vector<int> replicate_experts(std::span<const double> weight, int slots) {
  const int experts = static_cast<int>(weight.size());
  SHUNT_CHECK(slots >= experts, "{} slots for {} experts", slots, experts);
  std::vector<int> replicas(experts, 1);
  for (int s = experts; s < slots; ++s) {
    int best = 0;
    for (int e = 1; e < experts; ++e) {
      if (weight[e] / replicas[e] > weight[best] / replicas[best]) best = e;
    }
    ++replicas[best];
  }
  return replicas;
}

ExpertMapLayer eplb_experts(int layer, std::span<const double> load, int ranks, int redundant,
                            int nodes, int groups) {
  const int experts = static_cast<int>(load.size());
  SHUNT_CHECK(experts % groups == 0 && ranks % nodes == 0, "groups {} and nodes {} must divide",
              groups, nodes);
  if (groups % nodes != 0) groups = nodes = 1;
  const int group_size = experts / groups;
  std::vector<double> group_load(groups);
  for (int g = 0; g < groups; ++g) {
    const auto part = load.subspan(static_cast<size_t>(g) * group_size, group_size);
    group_load[g] = std::accumulate(part.begin(), part.end(), 0.0);
  }
  const std::vector<int> node_of = balanced_packing(group_load, nodes);
  ExpertMapLayer map{layer, std::vector<std::vector<ExpertReplica>>(experts)};
  for (int n = 0; n < nodes; ++n) {
    std::vector<int> mine;
    for (int e = 0; e < experts; ++e) {
      if (node_of[e / group_size] == n) mine.push_back(e);
    }
    // With slots that do not divide by nodes, the first nodes take one more.
    const int extra = redundant / nodes + (n < redundant % nodes ? 1 : 0);
    const int per_node = ranks / nodes;
    place_on_ranks(map, load, mine, static_cast<int>(mine.size()) + extra, n * per_node, per_node);
  }
  return map;
}

}  // namespace shunt::passes
