// The published rules of DeepSeek's expert-parallel load balancer (EPLB), as a baseline that our
// planner starts from and must never be worse than. Written from the rules, which are:
//
//   balanced packing   items by descending weight, each into the lightest pack that has room; every
//                      pack takes the same number of items
//   replication        one slot an expert; every further slot goes to the expert whose weight over
//                      number of replicas is largest; its replicas share its weight equally
//   hierarchical       groups of experts are packed onto nodes; then, inside each node, experts are
//                      replicated to the node's slots and replicas packed onto its ranks
//   global             the same with one group and one node
//
// One generalisation: where slots do not divide by ranks, packs hold at most the quotient rounded
// up (the published rules refuse).
#pragma once

#include <span>
#include <vector>

#include "ir/expert_map.h"

namespace shunt::passes {

/// The pack of each item; packs hold at most ceil(items / packs) items. Ties: the lower item first,
/// the lower pack.
std::vector<int> balanced_packing(std::span<const double> weight, int packs);

/// Replicas of each expert, `slots` in all (slots >= experts). Ties: the lower expert.
std::vector<int> replicate_experts(std::span<const double> weight, int slots);

/// The whole of the rules for one layer. Hierarchical if nodes divides groups, else global.
/// Replicas that land on one rank are merged into one that carries their shares. Needs: groups
/// divides the experts, nodes divides ranks.
ExpertMapLayer eplb_experts(int layer, std::span<const double> load, int ranks, int redundant,
                            int nodes, int groups);

}  // namespace shunt::passes
