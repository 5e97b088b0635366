// What a step costs under an expert map: bytes over each link and seconds, estimated from a
// profile. Token-level facts (which experts a token takes together, how far a single batch strays
// from the mean) are not in a profile: experts are taken as independent, a batch as average.
#pragma once

#include <cstdint>
#include <span>

#include "ir/expert_map.h"
#include "ir/target.h"

namespace shunt::passes {

/// One MoE layer, as far as its traffic and time depend on it.
struct MoeShape {
  int layer = 0;  // number in the model
  int experts = 0;
  int choices = 0;           // experts a token takes
  int groups = 1;            // of a group-limited router
  int64_t row_bytes = 0;     // one token's hidden state as it is sent
  int64_t expert_bytes = 0;  // weights of one expert
  int64_t expert_flops = 0;  // of one route
};

struct StepEstimate {
  double link_bytes_max = 0;   // each way over the busiest rank's link, dispatch and combine
  double link_bytes_mean = 0;  // the same, mean over ranks
  double node_bytes_max = 0;   // each way between the busiest node and the others; 0 with one node
  double link_seconds = 0;     // dispatch and combine over the busiest link
  double expert_seconds = 0;   // of the rank that takes longest: weights read, or arithmetic
  double seconds() const { return link_seconds + expert_seconds; }
  StepEstimate& operator+=(const StepEstimate& other);
};

/// One layer of one step of `tokens` tokens, spread evenly over the ranks, each sent once to every
/// other rank that has an expert it takes, and its partial sum sent back once. load[e]: routes to
/// expert e in the profile.
StepEstimate estimate_step(const MoeShape& shape, const ExpertMapLayer& map,
                           std::span<const double> load, int ranks, int nodes, double tokens,
                           const Target& target, double link_bytes_per_s);

}  // namespace shunt::passes
