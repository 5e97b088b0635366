// The MoE layers of a model, as placement sees them.
#pragma once

#include <string>
#include <vector>

#include "ir/module.h"
#include "passes/place/traffic.h"

namespace shunt::passes {

/// "model.layers.3.mlp" -> 3: the first of its parts that is a number.
int layer_number(const std::string& loc);

/// One entry a MoE layer of @step, by ascending layer number. For modules as the frontends make
/// them (before passes).
std::vector<MoeShape> moe_shapes(const ir::Module& module);

}  // namespace shunt::passes
