// Plans which rank holds which expert, and which experts are worth a replica, from a routing
// profile.
//
// Beyond EPLB's rules (passes/place/eplb.h), which it is never worse than: replicas of an expert
// are always on different ranks; each has a share of its own, chosen for balance; any number of
// experts on any number of ranks; moves and swaps after packing; weights stay where they are unless
// moving them pays.
#pragma once

#include <span>
#include <vector>

#include "ir/expert_map.h"

namespace shunt::passes {

struct PlacementOptions {
  int ranks = 1;
  int nodes = 1;      // divides ranks
  int redundant = 0;  // replicas beyond the first, in all; slots that bring nothing stay unused
  int groups =
      1;  // of a group-limited router; above 1 and with several nodes, a group stays on one node
  const ExpertMapLayer* current =
      nullptr;  // what the ranks hold now; its ranks must be below `ranks`
  /// With `current`: how much of the mean rank load a moved expert must save.
  double move_price = 0;
};

/// Experts a rank may hold: ceil((experts + redundant) / ranks), more only where whole groups of
/// experts must share a node. Throws UserError if the options cannot be met, saying which.
int expert_capacity(int experts, const PlacementOptions& options);

/// load[e] is the number of routes to expert e, in any unit. Deterministic.
ExpertMapLayer plan_experts(int layer, std::span<const double> load,
                            const PlacementOptions& options);

}  // namespace shunt::passes
