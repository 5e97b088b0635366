// How long a decode step takes on a mesh, from the placed and fused module and the target's
// figures. Counts, per kernel, the bytes it must read at the target's rate and a fixed cost
// (ramp-up, tail), and per collective its latency and bytes over the slowest link; what overlaps is
// not known to it.
#pragma once

#include <cstdint>

#include "ir/module.h"
#include "ir/target.h"

namespace shunt::passes {

struct Workload {
  int64_t batch = 8;       // sequences that decode, over all dp groups
  int64_t context = 1024;  // tokens a sequence has
};

/// Seconds of one step on the rank that takes longest.
struct StepPrediction {
  double experts = 0;  // matmuls of experts
  double dense = 0;    // other matmuls, the language head
  double attention = 0;
  double other = 0;  // norms, routing, rotation; inputs, sampling, ids to the host
  double communication = 0;
  double seconds() const { return experts + dense + attention + other + communication; }
};

/// `module` after all passes, with a decode graph that holds the batch of a dp group;
/// `peer_memory`: as it will be lowered (codegen/lower.h).
StepPrediction predict_decode(const ir::Module& module, const Target& target,
                              const Workload& workload, bool peer_memory = false);

/// One collective over `ranks` ranks that share `bytes` in all (all_reduce: of one rank's copy).
double collective_seconds(ir::OpKind kind, double bytes, int ranks, const Target& target,
                          bool peer_memory = false);

/// Of `total` experts of which a token takes k, how many distinct ones `tokens` tokens take on the
/// fullest of the `ranks` that hold `local` each, if every set of k is equally likely.
double distinct_experts(int64_t total, int64_t k, int64_t tokens, int64_t local, int ranks);

}  // namespace shunt::passes
