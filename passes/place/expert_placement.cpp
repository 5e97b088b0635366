// Groups onto nodes, then each node's experts onto its ranks. Entry point: plan_experts(). Tested
// by tests/passes/place/expert_placement_test.cpp.
#include "passes/place/expert_placement.h"

#include <algorithm>
#include <numeric>

#include "ir/error.h"
#include "passes/place/eplb.h"
#include "passes/place/pack.h"

namespace shunt::passes {

namespace {

/// Node of each group.
using Grouping = std::vector<int>;

struct Layout {
  int nodes, ranks_per_node, groups, group_size, groups_per_node, capacity;
};

Layout layout_of(int experts, const PlacementOptions& o) {
  if (o.ranks < 1) user_error("expert placement needs at least one rank, got {}", o.ranks);
  if (o.nodes < 1 || o.ranks % o.nodes != 0) {
    user_error("{} nodes do not divide {} ranks: give a number of nodes that does", o.nodes,
               o.ranks);
  }
  if (o.groups < 1 || experts % o.groups != 0) {
    user_error("{} groups do not divide {} experts", o.groups, experts);
  }
  if (o.redundant < 0) user_error("{} redundant experts: give 0 or more", o.redundant);
  // Two replicas of an expert on one rank are one.
  const int redundant =
      static_cast<int>(std::min<int64_t>(o.redundant, int64_t{experts} * (o.ranks - 1)));
  const bool limited = o.groups > 1 && o.nodes > 1;
  Layout l;
  l.nodes = limited ? o.nodes : 1;
  l.ranks_per_node = o.ranks / l.nodes;
  l.groups = limited ? o.groups : 1;
  l.group_size = experts / l.groups;
  l.groups_per_node = (l.groups + l.nodes - 1) / l.nodes;
  const int together = l.groups_per_node * l.group_size;
  l.capacity = std::max((experts + redundant + o.ranks - 1) / o.ranks,
                        (together + l.ranks_per_node - 1) / l.ranks_per_node);
  return l;
}

std::vector<double> group_loads(std::span<const double> load, const Layout& l) {
  std::vector<double> out(l.groups, 0.0);
  for (size_t e = 0; e < load.size(); ++e) out[e / l.group_size] += load[e];
  return out;
}

/// Packing by the search instead of by EPLB's rule: a node is a rank that takes groups.
Grouping search_grouping(const std::vector<double>& loads, const Layout& l) {
  const PackProblem problem{loads, l.nodes, l.groups_per_node, l.groups, {}, 0};
  Grouping node_of;
  for (const auto& replicas : pack_experts(problem)) node_of.push_back(replicas[0].rank);
  return node_of;
}

/// For each group and node, how many copies of the group's experts the node holds now.
std::vector<std::vector<int>> copies_held(const ExpertMapLayer& current, const Layout& l) {
  std::vector<std::vector<int>> held(l.groups, std::vector<int>(l.nodes, 0));
  for (int e = 0; e < current.expert_count(); ++e) {
    for (const ExpertReplica& r : current.experts[e])
      ++held[e / l.group_size][r.rank / l.ranks_per_node];
  }
  return held;
}

/// The same grouping with nodes renamed to where most of its weights are.
Grouping rename_nodes(const Grouping& grouping, const std::vector<std::vector<int>>& held,
                      const Layout& l) {
  std::vector<int> stays(l.nodes * l.nodes, 0);
  for (int g = 0; g < l.groups; ++g) {
    for (int n = 0; n < l.nodes; ++n) stays[grouping[g] * l.nodes + n] += held[g][n];
  }
  const std::vector<int> name = best_assignment(stays, l.nodes);
  Grouping out;
  for (int node : grouping) out.push_back(name[node]);
  return out;
}

/// Each group on the node that holds most of it, as far as there is room.
Grouping held_grouping(const std::vector<std::vector<int>>& held, const Layout& l) {
  Grouping node_of;
  std::vector<int> groups(l.nodes, 0);
  for (int g = 0; g < l.groups; ++g) {
    int best = -1;
    for (int n = 0; n < l.nodes; ++n) {
      if (groups[n] < l.groups_per_node && (best < 0 || held[g][n] > held[g][best])) best = n;
    }
    node_of.push_back(best);
    ++groups[best];
  }
  return node_of;
}

std::vector<Grouping> groupings(std::span<const double> load, const PlacementOptions& o,
                                const Layout& l) {
  if (l.groups == 1) return {{0}};
  const std::vector<double> loads = group_loads(load, l);
  std::vector<Grouping> out = {balanced_packing(loads, l.nodes), search_grouping(loads, l)};
  if (o.current != nullptr) {
    const auto held = copies_held(*o.current, l);
    for (Grouping& g : out) g = rename_nodes(g, held, l);
    out.push_back(held_grouping(held, l));
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

/// Slots of each node: its experts, and the redundant ones dealt one by one to the node with fewest
/// slots.
std::vector<int> slots_of_nodes(const Grouping& grouping, int redundant, const Layout& l) {
  std::vector<int> slots(l.nodes, 0);
  for (int node : grouping) slots[node] += l.group_size;
  for (int i = 0; i < redundant; ++i) {
    const auto fewest = std::min_element(slots.begin(), slots.end());
    if (*fewest >= l.ranks_per_node * l.capacity) break;
    ++*fewest;
  }
  return slots;
}

void place_node(int node, const Grouping& grouping, int slots, std::span<const double> load,
                double move_price, const PlacementOptions& o, const Layout& l,
                ExpertMapLayer& out) {
  const int first = node * l.ranks_per_node;
  PackProblem problem{{}, l.ranks_per_node, l.capacity, slots, {}, move_price};
  std::vector<int> experts;
  for (int e = 0; e < static_cast<int>(load.size()); ++e) {
    if (grouping[e / l.group_size] == node) experts.push_back(e);
  }
  for (int e : experts) problem.load.push_back(load[e]);
  if (o.current != nullptr) {
    problem.held.assign(experts.size() * l.ranks_per_node, 0);
    for (size_t i = 0; i < experts.size(); ++i) {
      for (const ExpertReplica& r : o.current->experts[experts[i]]) {
        const int rank = r.rank - first;
        if (rank >= 0 && rank < l.ranks_per_node) problem.held[i * l.ranks_per_node + rank] = 1;
      }
    }
  }
  if (experts.empty()) return;
  const Placement placed = pack_experts(problem);
  for (size_t i = 0; i < experts.size(); ++i) {
    for (const ExpertReplica& r : placed[i])
      out.experts[experts[i]].push_back({first + r.rank, r.share});
  }
}

}  // namespace

int expert_capacity(int experts, const PlacementOptions& options) {
  return layout_of(experts, options).capacity;
}

ExpertMapLayer plan_experts(int layer, std::span<const double> load,
                            const PlacementOptions& options) {
  const int experts = static_cast<int>(load.size());
  SHUNT_CHECK(experts > 0, "a layer without experts");
  const Layout l = layout_of(experts, options);
  if (options.current != nullptr && options.current->expert_count() != experts) {
    user_error("the current map has {} experts in layer {}, the profile has {}",
               options.current->expert_count(), layer, experts);
  }
  const double mean = std::accumulate(load.begin(), load.end(), 0.0) / options.ranks;
  const double price = options.current != nullptr ? options.move_price * mean : 0;
  ExpertMapLayer best;
  double best_cost = 0;
  for (const Grouping& grouping : groupings(load, options, l)) {
    ExpertMapLayer candidate{layer, Placement(experts)};
    const std::vector<int> slots = slots_of_nodes(grouping, options.redundant, l);
    for (int n = 0; n < l.nodes; ++n)
      place_node(n, grouping, slots[n], load, price, options, l, candidate);
    const std::vector<double> loads = rank_loads(candidate, load, options.ranks);
    double cost = *std::max_element(loads.begin(), loads.end());
    if (options.current != nullptr) cost += price * moved_experts(*options.current, candidate);
    if (!best.experts.empty() && cost >= best_cost) continue;
    best = std::move(candidate);
    best_cost = cost;
  }
  return best;
}

}  // namespace shunt::passes
