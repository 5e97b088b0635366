// Spreads a model over the ranks of a mesh: attention heads, dense features and the vocabulary
// along tp, experts along ep, slices of experts along etp; every dp group runs a batch of its own.
//
//   %u = linear %x, @up : f32[T, 64]
//   %a = pointwise %u {relu(x0)} : f32[T, 64]
//   %d = linear %a, @down : f32[T, 16]
//   %y = pointwise %x, %d {x0 + x1} : f32[T, 16]                                           =>
//
//   %u = linear %x, @up : f32[T, 32]            // @up, @down: shard {over = tp, size = 32, ...}
//   %a = pointwise %u {relu(x0)} : f32[T, 32]
//   %d = linear %a, @down : f32[T, 16]          // a partial sum
//   %d.sum = all_reduce %d {over = world, ranks = 2} : f32[T, 16]
//   %y = pointwise %x, %d.sum {x0 + x1} : f32[T, 16]
//
// The module stays one for all ranks: types are those of the rank that holds most, the others hold
// zeros there; which part is whose stands in `shard` ops, most of them in @load, where they become
// reads of the part alone. An op that no rule splits runs on all ranks over whole values, so every
// graph is right on every mesh. Runs first, while linears have no epilogue yet. Entry point: place.
// Tested by tests/passes/place.mir, tests/passes/every_mesh_test.cpp and tests/meshes.
#include "ir/error.h"
#include "passes/passes.h"
#include "passes/place/placer.h"
#include "passes/rewrite.h"

namespace shunt::passes {

bool place(ir::Module& module, const PassContext& context) {
  const Mesh& mesh = context.options.mesh;
  validate(mesh);
  if (const auto& map = context.options.expert_map) {
    validate(*map);
    if (map->ranks != mesh.ep) {
      user_error("the expert map is for {} ranks, the mesh has ep {}: give --ep {}", map->ranks,
                 mesh.ep, map->ranks);
    }
  }
  if (context.options.moe_comm == MoeComm::alltoall && mesh.dp == 1) {
    user_error(
        "--moe-comm alltoall sends tokens between dp groups, and this mesh ({}) has one: every "
        "rank has all tokens already",
        mesh.to_string());
  }
  if (mesh.tp == 1 && !context.options.keep_whole.empty()) {
    user_error("--keep-whole {}: this mesh ({}) has no tp that would split it",
               context.options.keep_whole.front(), mesh.to_string());
  }
  if (mesh.size() == 1 || step_graph(module) == nullptr) return false;
  SHUNT_CHECK(module.stage == ir::Stage::logical, "the module is placed already");
  Placer(module, context.options).run();
  return true;
}

}  // namespace shunt::passes
