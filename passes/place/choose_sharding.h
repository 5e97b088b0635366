// Chooses what ranks along tp split and what each of them keeps whole: splitting saves reading and
// costs a collective, and which is quicker depends on the model, the batch and the links.
#pragma once

#include <string>
#include <vector>

#include "passes/pass.h"
#include "passes/place/predict.h"

namespace shunt::passes {

struct ShardingChoice {
  std::vector<std::string> keep_whole;  // for PassOptions, sorted
  /// The predicted decode step, and the bytes of a rank, of every choice that was looked at, in
  /// that order; the first splits all that can be split.
  struct Trial {
    std::vector<std::string> keep_whole;
    double seconds = 0;
    int64_t rank_bytes = 0;  // weights, and states of the workload
  };
  std::vector<Trial> trials;
};

/// For a logical module, which is left as it is; its names in options.keep_whole are not looked at.
/// Each trial runs all passes on a copy and predicts its decode step, so that fewer kernels and
/// sums that are shared count. Regions (passes/place/regions.h) are turned one after the other,
/// once from all split and once from all whole; at equal time they are split, as that needs less
/// memory. Nothing is taken that needs more than 85 % of the target's memory, or than all split
/// does. A batch of more than the module decodes at once is cut to that. Without tp, and for a
/// module that has no decode graphs, nothing is tried.
ShardingChoice choose_sharding(const ir::Module& logical, const Target& target,
                               const PassOptions& options, Workload workload);

}  // namespace shunt::passes
