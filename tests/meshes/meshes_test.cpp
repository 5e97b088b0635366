// Random small models on random meshes: the logical module on one rank, the placed module on all
// ranks in lockstep, the module after all passes, and the cpu plan on threads compute the same.
//
// A draw is a number: everything in it follows from that. SHUNT_MESH_DRAW=17 runs that draw alone
// and says what it is; SHUNT_MESH_DRAWS=1000 runs the first 1000, SHUNT_MESH_FIRST=5000 others, and
// SHUNT_MESH_RANKS=8 draws larger meshes, SHUNT_MESH_FAMILY=dbrx runs the draws of one family;
// SHUNT_MESH_KERNELS=1 compiles the CUDA kernels of each draw as well. With
// SHUNT_MESH_TARGET=sm_90a plans run on the GPUs of this machine, of which SHUNT_MESH_RANKS must
// not name more than there are; activations are f32 or what SHUNT_MESH_DTYPE says, and the experts
// of all tokens are forced.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <regex>

#include "ir/error.h"
#include "passes/place/regions.h"
#include "passes/runner.h"
#include "tests/meshes/random_mesh.h"
#include "tests/meshes/random_model.h"
#include "tests/meshes/script.h"
#include "tools/driver.h"
#include "tools/expert_map_json.h"
#include "tools/step_runner.h"

namespace shunt {
namespace {

int64_t setting(const char* name, int64_t fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : std::atoll(text);
}

/// Rules that a refusal may name.
const std::regex kRules(
    "no rule says how|use --moe-comm allgather|parts that several ranks hold|attentions of "
    "different heads");

std::string text_setting(const char* name, const char* fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : text;
}

struct Outcome {
  bool refused = false;
  double worst = 0;     // error
  std::string problem;  // what went wrong; empty: nothing
};

class Draw {
 public:
  Draw(uint64_t seed, const std::string& family)
      : dice_(seed),
        model_(family, dice_),
        mesh_(draw_mesh(dice_, setting("SHUNT_MESH_RANKS", 6))) {
    frontend_.cpu = true;
    frontend_.max_model_len = 48;
    frontend_.max_num_seqs = 5;
    frontend_.max_num_batched_tokens = dice_.one_of({48, 64, 400});
    frontend_.max_logit_rows = 48;
    const bool some_forced = dice_.one_in(3);
    frontend_.force_routing = some_forced || !on_cpu();
    const ImportedModel model = model_.import(frontend_);
    facts_ = model.facts;
    causal_ = !model.module->states.empty();
    script_ = draw_script(dice_, facts_.vocab_size);
    script_.forced = frontend_.force_routing ? facts_.experts_per_token : 0;
    script_.force_all = !on_cpu();
    options_.target = target_;
    options_.model_dir = model_.path();
    options_.mesh = mesh_;
    options_.gather_logits = mesh_.dp > 1;
    passes_.mesh = mesh_;
    passes_.gather_logits = options_.gather_logits;
    if (mesh_.dp > 1) {
      passes_.moe_comm = dice_.one_of(
          {passes::MoeComm::automatic, passes::MoeComm::allgather, passes::MoeComm::alltoall});
      options_.moe_comm = enum_names(passes_.moe_comm)[static_cast<size_t>(passes_.moe_comm)];
    }
    if (mesh_.ep > 1 && dice_.coin()) {
      passes_.expert_map = draw_map(dice_, *model.module, mesh_);
      options_.expert_map = model_.path() / "map.json";
      std::ofstream(options_.expert_map) << expert_map_to_json(*passes_.expert_map);
    }
    if (mesh_.tp > 1 && dice_.one_in(3)) {
      for (const std::string& region : passes::region_names(*model.module, mesh_.tp)) {
        if (dice_.coin()) passes_.keep_whole.push_back(region);
      }
    }
    // Else the plan is of another placement than the modules, now and then: all are compared with
    // one rank.
    if (!passes_.keep_whole.empty())
      options_.keep_whole = fmt::format("{}", fmt::join(passes_.keep_whole, ","));
    else if (dice_.coin())
      options_.keep_whole = "none";
  }

  std::string text() const {
    return fmt::format("mesh {}, tokens by {}, whole: {}{}, {} sequences, T up to {}{}\n{}\n{}",
                       mesh_.to_string(), options_.moe_comm, options_.keep_whole,
                       passes_.expert_map ? ", expert map" : "", script_.prompts.size(),
                       frontend_.max_num_batched_tokens,
                       frontend_.force_routing ? ", forced routing" : "", model_.text(),
                       passes_.expert_map ? expert_map_to_json(*passes_.expert_map) : "");
  }

  Outcome run() {
    Outcome out;
    ModuleForReference placed;
    try {
      placed = module("place");
    } catch (const UserError& refusal) {
      out.refused = true;
      if (!std::regex_search(refusal.what(), kRules))
        out.problem = fmt::format("refused without a rule: {}\n", refusal.what());
      return out;
    }
    const auto want = play(*reference(), script_, facts_, causal_);
    compare(*evaluator(std::move(placed)), want, "placed", out);
    compare(*evaluator(module("")), want, "after all passes", out);
    if (on_cpu() || !model_.depends_on_batch()) run_plan(want, out);
    if (on_cpu()) lower_for_gpu(out);
    return out;
  }

 private:
  bool on_cpu() const { return target_ == "cpu"; }

  void compare(StepRunner& runner, const std::vector<StepValues>& want, const std::string& stage,
               Outcome& out) {
    const std::string text = difference(play(runner, script_, facts_, causal_), want,
                                        on_cpu() || stage != "plan", &out.worst);
    if (!text.empty()) out.problem += stage + ": " + text;
  }

  void run_plan(const std::vector<StepValues>& want, Outcome& out) {
    FrontendOptions frontend = frontend_;
    frontend.cpu = on_cpu();
    if (!on_cpu()) frontend.dtype = text_setting("SHUNT_MESH_DTYPE", "f32");
    const std::filesystem::path plan = model_.path() / "plan";
    write_plan(compile(model_.import(frontend), &model_.checkpoint(), options_), plan);
    RanksOptions ranks;
    ranks.session.kv_pages = frontend_.max_num_seqs;
    ranks.session.threads = 1;
    ranks.session.poison = true;
    compare(*make_plan_runner(plan, ranks), want, "plan", out);
    if (on_cpu() && causal_ && !model_.depends_on_batch()) run_engine(plan, ranks, out);
  }

  /// Requests that an Engine schedules over the dp groups, with as few pages as one needs.
  void run_engine(const std::filesystem::path& plan, RanksOptions options, Outcome& out) const {
    std::vector<std::vector<int32_t>> prompts = script_.decoded;
    prompts.insert(prompts.end(), script_.prompts.begin(), script_.prompts.end());
    options.session.kv_pages = 2;
    Ranks ranks(load_plan(plan), plan, options);
    const auto chosen = generate(ranks.session(), prompts, 4);
    ranks.finish();
    const std::string text = wrong_choices(*reference(), prompts, chosen);
    if (!text.empty()) out.problem += fmt::format("engine: not the largest logits:{}\n", text);
  }

  /// What can be lowered for a GPU on one rank can be on the mesh, whatever the sizes of the parts.
  void lower_for_gpu(Outcome& out) const {
    const auto lower = [&](const Mesh& mesh) -> std::string {
      FrontendOptions frontend = frontend_;
      frontend.cpu = false;
      CompileOptions options = options_;
      options.target = "sm_90a";
      if (mesh.size() == 1) {
        options.mesh = {};
        options.moe_comm = options.keep_whole = "auto";
        options.expert_map = "";
      }
      try {
        compile(model_.import(frontend), &model_.checkpoint(), options,
                setting("SHUNT_MESH_KERNELS", 0) == 0);
      } catch (const UserError& e) {
        return e.what();
      }
      return "";
    };
    const std::string refusal = lower(mesh_);
    if (!refusal.empty() && lower({}).empty()) out.problem += fmt::format("sm_90a: {}\n", refusal);
  }

  /// After `stop_after`, or with "" after all passes.
  ModuleForReference module(const std::string& stop_after) const {
    ImportedModel model = model_.import(frontend_);
    passes::PassOptions options = passes_;
    options.stop_after = stop_after;
    passes::run_pipeline(*model.module, find_target("cpu"), options);
    return packed(std::move(model));
  }

  ModuleForReference packed(ImportedModel model) const {
    const FrontendLimits& l = model.limits;
    return {
        std::move(model.module),
        {l.max_model_len, l.max_num_seqs, l.max_num_batched_tokens, l.max_logit_rows, l.page_size},
        facts_.vocab_size,
        script_.forced};
  }

  std::unique_ptr<StepRunner> evaluator(ModuleForReference module) const {
    return make_reference_runner(std::move(module), checkpoint_reader(model_.path()),
                                 frontend_.max_num_seqs);
  }

  std::unique_ptr<StepRunner> reference() const {
    const auto alone = [&] { return evaluator(packed(model_.import(frontend_))); };
    if (mesh_.dp == 1 || !model_.depends_on_batch()) return alone();
    std::vector<std::unique_ptr<StepRunner>> groups;
    for (int g = 0; g < mesh_.dp; ++g) groups.push_back(alone());
    return groups_alone(std::move(groups));
  }

  const std::string target_ = text_setting("SHUNT_MESH_TARGET", "cpu");
  Dice dice_;
  RandomModel model_;
  Mesh mesh_;
  FrontendOptions frontend_;
  CompileOptions options_;
  passes::PassOptions passes_;
  ModelFacts facts_;
  bool causal_ = true;
  Script script_;
};

TEST(RandomMeshes, LogicalPlacedFusedAndPlanAgree) {
  const std::vector<std::string> families = random_families();
  const int64_t alone = setting("SHUNT_MESH_DRAW", -1);
  const int64_t first = alone >= 0 ? alone : setting("SHUNT_MESH_FIRST", 0);
  const int64_t count =
      alone >= 0 ? 1 : setting("SHUNT_MESH_DRAWS", 10 * static_cast<int64_t>(families.size()));
  const std::string only = text_setting("SHUNT_MESH_FAMILY", "");
  int64_t run = 0, refused = 0;
  double worst = 0;
  for (int64_t i = first; i < first + count; ++i) {
    const std::string& family = families[static_cast<size_t>(i) % families.size()];
    if (!only.empty() && family != only) continue;
    std::string text = family + ", which could not be drawn";
    Outcome outcome;
    try {
      Draw draw(static_cast<uint64_t>(i), family);
      text = draw.text();
      outcome = draw.run();
    } catch (const std::exception& e) {
      outcome.problem = e.what();
    }
    ++run;
    refused += outcome.refused ? 1 : 0;
    worst = std::max(worst, outcome.worst);
    if (alone >= 0) std::cout << text << "\nworst error " << outcome.worst << "\n";
    EXPECT_EQ(outcome.problem, "") << "SHUNT_MESH_DRAW=" << i << ": " << text;
  }
  std::cout << run << " draws, " << refused << " refused, worst error " << worst << "\n";
  EXPECT_LE(refused * 100, run * 15) << "of " << run << " draws";
}

}  // namespace
}  // namespace shunt
