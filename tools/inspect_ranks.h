// What a plan says of its ranks, for `inspect --show placement,comm`.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "runtime/plan/plan.h"

namespace shunt {

/// The mesh; what tp could split and does not; per rank the checkpoint bytes it reads and the bytes
/// it holds; per MoE layer which rank has which expert, replicas with their shares; which
/// parameters are slices.
nlohmann::ordered_json placement_json(const Plan& plan);

/// Every collective of a program in the order in which all ranks issue it: op, group, ranks, bytes
/// of a rank's part at the program's upper bounds (over peer memory: of its result), by what
/// ("communicator" or "peer memory"), loc; and their sums.
nlohmann::ordered_json comm_json(const Plan& plan, const Program& program);

}  // namespace shunt
