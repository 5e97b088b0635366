// Models on meshes: the placed and fused module in the lockstep evaluator, and a cpu plan on ranks
// that are threads, against the goldens of one rank.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "passes/place/moe_shapes.h"
#include "runtime/engine/engine.h"
#include "tests/tools/program.h"
#include "tools/driver.h"
#include "tools/expert_map_json.h"
#include "tools/verify.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

struct MeshCase {
  std::string name;
  Mesh mesh;
  int redundant = 0;  // experts that get a second replica
  std::string moe_comm = "auto";
  std::string keep_whole = "none";
};

const MeshCase kMeshes[] = {
    {"tp2", {1, 2, 1, 2}},
    {"tp4", {1, 4, 1, 4}},
    {"ep2", {1, 2, 2, 1}},
    {"ep4", {1, 4, 4, 1}},
    {"ep3", {1, 3, 3, 1}},
    {"etp2_ep2", {1, 4, 2, 2}},
    {"dp2_ep2", {2, 1, 2, 1}},
    {"ep4_redundant2", {1, 4, 4, 1}, 2},
    {"dp2_ep2_alltoall", {2, 1, 2, 1}, 0, "alltoall"},
    {"dp3_ep3_alltoall", {3, 1, 3, 1}, 2, "alltoall"},
    {"dp2_tp2_ep4_alltoall", {2, 2, 4, 1}, 2, "alltoall"},
    {"dp2_tp2_ep2_etp2_alltoall", {2, 2, 2, 2}, 0, "alltoall"},
    // Small models have little to split: most stays whole.
    {"tp2_auto", {1, 2, 1, 2}, 0, "auto", "auto"},
    {"dp2_tp2_ep4_auto", {2, 2, 4, 1}, 2, "auto", "auto"},
};

const char* const kModels[] = {"conformance/mixtral",
                               "conformance/qwen2_moe",
                               "conformance/deepseek_v3",
                               "conformance/gpt_oss",
                               "conformance/olmoe",
                               "conformance/granitemoeshared",
                               "deepspeed/top1_standard",
                               "deepspeed/top2_residual",
                               "deepspeed/top1_residual_mp2",
                               "deepspeed/top2_mp2_whole_experts",
                               "storyteller"};

/// Contiguous experts, and of the first `redundant` a second replica on the next rank.
ExpertMap with_replicas(const ir::Module& module, int ranks, int redundant) {
  ExpertMap map;
  map.ranks = ranks;
  for (const passes::MoeShape& shape : passes::moe_shapes(module)) {
    ExpertMapLayer layer = contiguous_experts(shape.layer, shape.experts, ranks);
    for (int e = 0; e < std::min(redundant, shape.experts); ++e) {
      const int first = layer.experts[static_cast<size_t>(e)][0].rank;
      layer.experts[static_cast<size_t>(e)] = {{first, 0.375}, {first + 1, 0.625}};
    }
    map.layers.push_back(std::move(layer));
  }
  return map;
}

class OnMesh : public testing::TestWithParam<std::tuple<const char*, MeshCase>> {
 protected:
  void SetUp() override {
    const auto& [model, mesh] = GetParam();
    const bool trained = std::string_view(model) == "storyteller";
    options_.model_dir = trained ? test::storyteller() : test::data(model);
    golden_ = load_golden(trained ? fs::path(test::data("storyteller/golden.json"))
                                  : options_.model_dir / "golden.safetensors");
    const GoldenSizes sizes = sizes_of(golden_);
    pages_ = sizes.sequences * (sizes.longest / 64 + 1);
    options_.max_num_batched_tokens = options_.max_logit_rows = sizes.tokens;
    options_.max_model_len = sizes.longest;
    options_.max_num_seqs = sizes.sequences;
    const auto plain = import_module(options_, false);
    options_.mesh = mesh.mesh;
    options_.gather_logits = mesh.mesh.dp > 1;
    options_.moe_comm = mesh.moe_comm;
    options_.keep_whole = mesh.keep_whole;
    scratch_ = fs::path(testing::TempDir()) /
               ("mesh-" + options_.model_dir.filename().string() + "-" + mesh.name);
    if (mesh.redundant > 0) {
      options_.expert_map = scratch_.string() + ".json";
      std::ofstream(options_.expert_map)
          << expert_map_to_json(with_replicas(*plain.module, mesh.mesh.ep, mesh.redundant));
    }
  }
  void TearDown() override {
    fs::remove_all(scratch_);
    fs::remove(options_.expert_map);
  }

  void check(StepRunner& runner) {
    const VerifyReport report = verify_golden(runner, golden_, {});
    for (const VerifyLine& line : report.lines)
      EXPECT_TRUE(line.ok) << line.what << ": " << line.text;
    EXPECT_FALSE(report.lines.empty());
  }

  CompileOptions options_;
  int64_t pages_ = 0;
  std::vector<GoldenSequence> golden_;
  fs::path scratch_;
};

/// A gate with a capacity counts the tokens of its dp group: the golden of one rank does not hold.
bool golden_holds(const std::string& model, const Mesh& mesh) {
  return mesh.dp == 1 || !model.starts_with("deepspeed");
}

TEST_P(OnMesh, Evaluator) {
  if (!golden_holds(std::get<0>(GetParam()), options_.mesh)) return;  // CapacityOfAGroup has these
  check(*make_reference_runner(options_, true, pages_));
}

TEST_P(OnMesh, CpuPlan) {
  if (!golden_holds(std::get<0>(GetParam()), options_.mesh)) return;
  write_plan(compile(options_), scratch_);
  check(*make_plan_runner(scratch_, pages_));
}

INSTANTIATE_TEST_SUITE_P(Models, OnMesh,
                         testing::Combine(testing::ValuesIn(kModels), testing::ValuesIn(kMeshes)),
                         [](const auto& info) {
                           std::string model = std::get<0>(info.param);
                           model = model.substr(model.find('/') + 1);
                           return model + "_" + std::get<1>(info.param).name;
                         });

class CapacityOfAGroup : public testing::TestWithParam<const char*> {};

/// One sequence a group, of unequal lengths, so that one group has padding: the plan equals the
/// evaluator on the same mesh before and after the fusions, and each sequence equals itself alone
/// on one rank.
TEST_P(CapacityOfAGroup, CountsItsOwnTokens) {
  CompileOptions options;
  options.keep_whole = "none";
  options.model_dir = test::data(GetParam());
  const auto golden = load_golden(options.model_dir / "golden.safetensors");
  options.max_model_len = options.max_num_batched_tokens = options.max_logit_rows = 32;
  options.max_num_seqs = 2;
  const std::vector<int32_t> first = golden[0].ids;
  const std::vector<int32_t> second(golden[1].ids.begin(), golden[1].ids.begin() + 11);
  const auto run = [&](StepRunner& runner, const std::vector<std::span<const int32_t>>& sequences) {
    SequenceFeeder feeder(runner, static_cast<int64_t>(sequences.size()), 32);
    return feeder.append_batch(sequences, false).logits;
  };
  Matrix alone = run(*make_reference_runner(options, false, 2), {first});
  const Matrix other = run(*make_reference_runner(options, false, 2), {second});
  alone.data.insert(alone.data.end(), other.data.begin(), other.data.end());
  options.mesh = {2, 1, 2, 1};
  options.gather_logits = true;
  for (const char* moe_comm : {"allgather", "alltoall"}) {
    options.moe_comm = moe_comm;
    const Matrix evaluated = run(*make_reference_runner(options, true, 2), {first, second});
    const fs::path plan = fs::path(testing::TempDir()) / "capacity-of-a-group";
    write_plan(compile(options), plan);
    const Matrix planned = run(*make_plan_runner(plan, 2), {first, second});
    fs::remove_all(plan);
    ASSERT_EQ(alone.data.size(), planned.data.size());
    for (size_t i = 0; i < alone.data.size(); ++i) {
      ASSERT_NEAR(evaluated.data[i], alone.data[i], 1e-4) << moe_comm << i;
      ASSERT_NEAR(planned.data[i], alone.data[i], 1e-4) << moe_comm << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DeepSpeed, CapacityOfAGroup,
                         testing::Values("deepspeed/top1_standard", "deepspeed/top2_residual",
                                         "deepspeed/top1_residual_mp2",
                                         "deepspeed/top2_mp2_whole_experts"),
                         [](const auto& info) { return std::string(info.param).substr(10); });

/// Greedy ids of several prompts of unequal lengths, through the engine.
std::vector<std::vector<int32_t>> generate(const CompileOptions& options, const fs::path& plan) {
  write_plan(compile(options), plan);
  RanksOptions ranks_options;
  ranks_options.session.kv_pages = 12;  // of each dp group: short, so that requests are preempted
  Ranks ranks(load_plan(plan), plan, ranks_options);
  std::vector<std::vector<int32_t>> out(5);
  {
    Engine engine(ranks.session());
    for (size_t i = 0; i < out.size(); ++i) {
      std::vector<int32_t> prompt;
      for (size_t t = 0; t < 20 + 37 * i; ++t)
        prompt.push_back(static_cast<int32_t>((11 * t + 5 * i) % 4096));
      SamplingParams params;
      params.max_tokens = 24;
      params.ignore_eos = true;
      engine.submit(std::move(prompt), params,
                    [&out, i](const TokenEvent& e) { out[i].push_back(e.token); });
    }
    engine.run_until_done();
    EXPECT_EQ(engine.stats().generated_tokens, 5 * 24);
  }
  ranks.finish();
  fs::remove_all(plan);
  return out;
}

TEST(EngineOnMesh, SameIdsAsOneRank) {
  CompileOptions options;
  options.keep_whole = "none";
  options.model_dir = test::storyteller();
  options.max_model_len = 256;
  options.max_num_seqs = 3;
  options.max_num_batched_tokens = 64;
  const fs::path plan = fs::path(testing::TempDir()) / "engine-on-mesh";
  const auto expected = generate(options, plan);
  for (const MeshCase& c : kMeshes) {
    if (c.redundant > 0) continue;
    options.mesh = c.mesh;
    options.moe_comm = c.moe_comm;
    EXPECT_EQ(generate(options, plan), expected) << c.name;
  }
}

/// The rows that a GPU plan takes for tokens of two groups.
TEST(MoeComm, DispatchesOverPeerMemory) {
  CompileOptions options;
  options.keep_whole = "none";
  options.model_dir = test::data("conformance/mixtral");
  options.target = "sm_90a";
  options.mesh = {2, 1, 2, 1};
  const auto rows = [&](const char* moe_comm, const char* peer_memory) {
    options.moe_comm = moe_comm;
    options.peer_memory = peer_memory;
    std::set<std::string> names;
    for (const Program& p : compile(options, true).plan.programs) {
      if (p.graph != "step") continue;
      for (const Step& s : p.steps) names.insert(s.name);
    }
    return names;
  };
  const auto peers = rows("auto", "auto"), messages = rows("alltoall", "off");
  EXPECT_TRUE(peers.contains("dispatch.peer_lines") && peers.contains("combine.peer_lines"));
  EXPECT_FALSE(peers.contains("dispatch.alltoall") || peers.contains("combine.alltoall"));
  EXPECT_TRUE(messages.contains("dispatch.alltoall") && messages.contains("combine.alltoall"));
  EXPECT_TRUE(rows("auto", "off").contains("reduce_scatter.comm"));
  EXPECT_TRUE(rows("allgather", "on").contains("reduce_scatter.comm"));
}

TEST(MoeComm, NeedsSeveralGroups) {
  CompileOptions options;
  options.keep_whole = "none";
  options.model_dir = test::data("conformance/mixtral");
  options.mesh = {1, 2, 2, 1};
  options.moe_comm = "alltoall";
  try {
    compile(options, true);
    ADD_FAILURE() << "no error";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("--moe-comm alltoall"), std::string::npos) << e.what();
  }
}

/// A rank reads its own parts and what all ranks have, byte for byte, and nothing else.
TEST(LoadingOnMesh, ARankReadsItsPartsOnly) {
  CompileOptions options;
  options.keep_whole = "none";
  options.model_dir = test::storyteller();
  const Plan one = compile(options, true).plan;
  const auto bytes = [](const Plan& plan, int rank, bool shared) {
    int64_t n = 0;
    for (const Program& p : plan.programs) {
      for (const Step& s : p.steps) {
        const auto* r = std::get_if<Read>(&s.what);
        if (r != nullptr && (shared ? s.rank < 0 : s.rank == rank)) n += r->rows * r->row_bytes;
      }
    }
    return n;
  };
  const int64_t whole = bytes(one, 0, true);
  for (const Mesh& mesh : {Mesh{1, 4, 4, 1}, Mesh{1, 4, 1, 4}}) {
    options.mesh = mesh;
    const fs::path directory = fs::path(testing::TempDir()) / "loading-on-mesh";
    write_plan(compile(options), directory);
    const Plan plan = load_plan(directory);
    int64_t parts = 0;
    for (int r = 0; r < 4; ++r) parts += bytes(plan, r, false);
    // kv heads are fewer than ranks here: two ranks read each, k and v of 2 x 64 rows of 256 in 4
    // layers.
    EXPECT_EQ(bytes(plan, 0, true) + parts, whole + int64_t{4} * 2 * 128 * 256 * 2);
    EXPECT_LT(bytes(plan, 0, true), whole / 20);
    // And what rank 0 counts while it loads is that.
    int64_t counted = 0;
    RanksOptions ranks_options;
    ranks_options.session.kv_pages = 4;
    ranks_options.session.progress = [&](int64_t done, int64_t) { counted = done; };
    Ranks ranks(plan, directory, ranks_options);
    ranks.finish();
    EXPECT_EQ(counted, bytes(plan, 0, true) + bytes(plan, 0, false));
    fs::remove_all(directory);
  }
}

/// A rank that fails takes the others with it, and the error says which one.
TEST(RanksTest, AFailingRankEndsAll) {
  CompileOptions options;
  options.keep_whole = "none";
  options.model_dir = test::storyteller();
  options.mesh = {1, 2, 2, 1};
  const fs::path directory = fs::path(testing::TempDir()) / "failing-rank";
  write_plan(compile(options), directory);
  Plan plan = load_plan(directory);
  RanksOptions ranks_options;
  ranks_options.comm_timeout = Milliseconds(20'000);
  // Rank 1 reads behind the end of its files.
  for (Program& p : plan.programs) {
    for (Step& s : p.steps) {
      if (auto* r = std::get_if<Read>(&s.what); r != nullptr && s.rank == 1)
        r->from_offset += int64_t{1} << 40;
    }
  }
  std::string error;
  try {
    Ranks ranks(plan, directory, ranks_options);
  } catch (const Error& e) {
    error = e.what();
  }
  EXPECT_NE(error.find("rank 1 failed"), std::string::npos) << error;
  fs::remove_all(directory);
}

TEST(RanksTest, LaunchersThatDoNotFit) {
  CompileOptions options;
  options.keep_whole = "none";
  options.model_dir = test::storyteller();
  options.mesh = {1, 2, 2, 1};
  const Plan plan = compile(options, true).plan;
  RanksOptions three;
  three.launch.world = 3;
  three.launch.source = "torchrun";
  const auto refusal = [&](const RanksOptions& o) -> std::string {
    try {
      Ranks ranks(plan, "", o);
    } catch (const UserError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(refusal(three).find("the plan is for 2 ranks"), std::string::npos);
  three.launch.world = 2;
  EXPECT_NE(refusal(three).find("threads of one process"), std::string::npos);
}

}  // namespace
}  // namespace shunt
