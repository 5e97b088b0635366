// Experts onto ranks that are alike: several starts, each improved, the best kept.
#pragma once

#include "passes/place/rank_state.h"

namespace shunt::passes {

/// Column of each row in an assignment of n rows to n columns with the largest sum of value[row * n
/// + column].
std::vector<int> best_assignment(const std::vector<int>& value, int n);

/// Never worse than EPLB's rules on the same problem, as long as moves are free.
Placement pack_experts(const PackProblem& problem);

}  // namespace shunt::passes
