// How many routes and experts a step's experts meet: what the cost models of passes and kernels
// share. Every set of k experts counts as equally likely.
#pragma once

#include <cstdint>

#include "ir/module.h"

namespace shunt::ir {

/// The routing behind a routed_linear or grouped_linear.
struct ExpertLoad {
  int64_t experts = 1;  // of the model
  int64_t local = 1;    // that the op has: fewer on one of several ranks
  int64_t choices = 1;  // k, of a token

  /// Of `tokens` tokens, the routes that go to an expert of the op.
  double local_routes(int64_t tokens) const;
  /// Experts of the op that at least one token chose.
  double chosen(int64_t tokens) const;
  /// Groups of up to `rows` routes of one expert: so often are weights of an expert read where a
  /// read serves that many routes. With 1, local_routes(); at least chosen().
  double groups(int64_t tokens, int64_t rows) const;
};

/// Found by the ids of the op, whether sorted or mapped to a rank's own experts or not.
ExpertLoad expert_load(const Op& op);

/// The ids [T, k] behind a routed_linear or a grouped_linear; of the latter null if its offsets are
/// not made by a route_sort.
const Value* route_ids(const Op& op);

}  // namespace shunt::ir
