// Lowering of @load: checkpoint tensors, slices, concatenations and transpositions become strided
// file reads straight into parameters, so that loading needs no scratch on the device.
#pragma once

#include <functional>
#include <vector>

#include "codegen/lower.h"
#include "ir/module.h"
#include "runtime/plan/plan.h"

namespace shunt::codegen {

/// True if a `shard` is among what makes `value`.
bool differs_by_rank(const ir::Value& value);

/// Steps that give `param` (at `to`, dense row-major) the value `value` as `rank` of `mesh` has it.
/// A parameter made of `dummy` values is filled by one dummy of its own size: `emit_dummy` receives
/// the first of them, with a seed that is another for another part of the whole.
std::vector<Step> lower_store(const ir::Value& value, const Arg& to, const LowerOptions& options,
                              const Mesh& mesh, int rank,
                              const std::function<void(const ir::Op&)>& emit_dummy);

}  // namespace shunt::codegen
