// Every case of tests/passes/*.mir, whichever pass it was written for, placed on every mesh of up
// to four ranks and some larger ones: the placed module, and the one after all passes, mean the
// same.
#include <gtest/gtest.h>

#include <algorithm>

#include "ir/error.h"
#include "passes/runner.h"
#include "tests/mir_cases.h"
#include "tests/paths.h"

namespace shunt::passes {
namespace {

std::vector<Mesh> all_meshes() {
  std::vector<Mesh> meshes;
  for (const int n : {2, 3, 4, 6}) {
    for (int tp = 1; tp <= n; ++tp) {
      for (int ep = 1; ep <= n; ++ep) {
        if (n % tp == 0 && n % ep == 0) meshes.push_back({n / tp, tp, ep, n / ep});
      }
    }
  }
  return meshes;
}

/// What place needs of a whole model: @load stores every parameter, and experts are in a layer.
void complete(ir::Module& module) {
  for (const auto& op : module.find_graph("step")->ops) {
    if (op->loc.empty()) op->loc = "layers.0";
  }
  if (module.find_graph("load") == nullptr) module.add_graph("load");
  ir::GraphBuilder load(*module.find_graph("load"));
  for (const ir::Param& p : module.params) {
    const auto& users = p.value->users;
    if (std::any_of(users.begin(), users.end(),
                    [](const ir::Op* op) { return op->kind == ir::OpKind::store; }))
      continue;
    const Type& type = p.value->type;
    ir::Value* value = load.value(ir::OpKind::checkpoint, {},
                                  ir::CheckpointAttrs{p.value->name, 0, type.dtype, type.shape});
    load.op(ir::OpKind::store, {value, p.value.get()});
  }
}

class EveryMesh : public testing::TestWithParam<MirCase> {};

TEST_P(EveryMesh, MeansTheSame) {
  const auto logical = ir::parse(GetParam().input);
  if (logical->stage != ir::Stage::logical || logical->find_graph("step") == nullptr) return;
  complete(*logical);
  const Target& target = find_target("cpu");
  const RooflineCostModel cost(target);
  for (const Mesh& mesh : all_meshes()) {
    // With several groups @sample returns the ids of all.
    if (mesh.dp > 1 && logical->find_graph("sample") != nullptr) continue;
    for (const auto& [last, comm] :
         {std::pair{"place", MoeComm::allgather}, std::pair{"", MoeComm::allgather},
          std::pair{"place", MoeComm::alltoall}, std::pair{"place", MoeComm::automatic}}) {
      if (mesh.dp == 1 && comm != MoeComm::allgather) continue;
      PassOptions options;
      options.mesh = mesh;
      options.moe_comm = comm;
      options.peer_memory = comm == MoeComm::automatic;  // then alltoall where it can be
      options.stop_after = last;
      const auto placed = ir::clone(*logical);
      const std::string where = mesh.to_string() + (*last == 0 ? ", all passes" : "") +
                                (comm == MoeComm::alltoall ? ", alltoall" : "");
      try {
        run_passes(*placed, pipeline(), {target, options, cost});
      } catch (const UserError& e) {
        const std::string text = e.what();
        // A fragment returns what only whole layers make; or experts share routes.
        const bool unasked = text.find("no rule says how") != std::string::npos;
        const bool asked =
            comm == MoeComm::alltoall && text.find("use --moe-comm allgather") != std::string::npos;
        EXPECT_TRUE(unasked || asked) << where << ": " << text;
        continue;
      }
      EXPECT_TRUE(compare_modules_by_evaluation(*logical, *placed)) << where;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Mir, EveryMesh,
                         testing::ValuesIn(read_mir_cases(std::string(source_dir()) +
                                                          "/tests/passes")),
                         mir_case_test_name);

}  // namespace
}  // namespace shunt::passes
