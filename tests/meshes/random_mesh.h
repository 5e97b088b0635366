// Random meshes and expert maps.
#pragma once

#include "ir/expert_map.h"
#include "ir/mesh.h"
#include "ir/module.h"
#include "tests/meshes/dice.h"

namespace shunt {

/// A mesh of 1 to `most` ranks, more often with several axes than with one.
Mesh draw_mesh(Dice& dice, int64_t most);

/// For the MoE layers of a logical module: any experts on any ranks, some of them on several, some
/// ranks without any.
ExpertMap draw_map(Dice& dice, const ir::Module& module, const Mesh& mesh);

}  // namespace shunt
