// Which rank holds which expert of which MoE layer. Plain data: `shunt place` makes it, passes and
// the driver use it.
//
// Lists, not divisions: any number of experts over any number of ranks, and an expert may have
// replicas on several ranks. Every replica carries its share of the expert's tokens; which replica
// a token takes is decided on the device (docs/placement.md).
#pragma once

#include <span>
#include <string>
#include <vector>

namespace shunt {

/// One copy of an expert's weights.
struct ExpertReplica {
  int rank = 0;
  double share =
      1;  // of the expert's tokens, above 0; the shares of one expert's replicas sum to 1
  bool operator==(const ExpertReplica&) const = default;
};

/// The replicas of each expert of one MoE layer, of an expert by ascending rank, no two on one
/// rank.
struct ExpertMapLayer {
  int layer = 0;  // number of the layer in the model, dense layers counted
  std::vector<std::vector<ExpertReplica>> experts;

  int expert_count() const { return static_cast<int>(experts.size()); }
  /// Copies beyond the first of each expert.
  int redundant() const;
  /// Experts with a replica on `rank`, ascending.
  std::vector<int> experts_on(int rank) const;
  bool operator==(const ExpertMapLayer&) const = default;
};

struct ExpertMap {
  int ranks = 1;  // of the ep axis
  int nodes =
      1;  // ranks [n * ranks / nodes, (n + 1) * ranks / nodes) share node n; divides `ranks`
  std::vector<ExpertMapLayer> layers;  // by ascending layer number, MoE layers only

  int ranks_per_node() const { return ranks / nodes; }
  /// nullptr if the layer has no entry.
  const ExpertMapLayer* find_layer(int layer) const;
  bool operator==(const ExpertMap&) const = default;
};

/// Throws UserError "layer 3, expert 17: ..." if the map breaks a rule stated above.
void validate(const ExpertMap& map);

/// What a mesh has without a map: rank r holds the r-th run of experts; the first (experts mod
/// ranks) ranks hold one more than the others.
ExpertMapLayer contiguous_experts(int layer, int experts, int ranks);

/// Sum over the rank's replicas of share * load; load[e] is that of expert e in any unit. One entry
/// a rank.
std::vector<double> rank_loads(const ExpertMapLayer& layer, std::span<const double> load,
                               int ranks);

/// Largest over mean: 1 is perfect, `ranks` is everything on one rank. 1 if there is no load at
/// all.
double max_over_mean(std::span<const double> loads);

/// Copies of experts that `to` has on a rank where `from` has none: what must be sent to go from
/// one to the other. Both have the same number of experts.
int moved_experts(const ExpertMapLayer& from, const ExpertMapLayer& to);

}  // namespace shunt
