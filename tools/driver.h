// The compile API: a model directory and options become a plan on disk. What `shunt compile` and
// `shunt run` call.
//
//   shunt::CompileOptions options;
//   options.model_dir = "examples/storyteller";
//   options.target = "cpu";
//   std::filesystem::path plan = shunt::compile_cached(options).directory;
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontends/explain.h"
#include "frontends/frontend.h"
#include "ir/module.h"
#include "passes/place/choose_sharding.h"
#include "runtime/plan/plan.h"

namespace shunt {

namespace codegen {
struct Lowered;
}

struct CompileOptions {
  std::filesystem::path model_dir;
  std::string target = "cpu";
  std::string dtype = "auto";  // activations: auto, bf16, f16, f32
  int64_t max_model_len = 0;   // 0: the frontend's default (frontends/frontend.h)
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t max_logit_rows = 0;
  bool dummy_weights = false;        // config.json is enough; random weights
  Mesh mesh = {};                    // of the ranks that the plan is for
  std::filesystem::path expert_map;  // JSON for mesh.ep ranks (docs/placement.md); or empty
  std::string moe_comm = "auto";     // how tokens of dp groups reach experts: allgather, alltoall
  std::string peer_memory = "auto";  // kernels that reach other GPUs' memory: auto, on, off
  /// What ranks along tp compute whole instead of a part of it: "auto" (what is quicker so),
  /// "none", or names, by commas, of regions (passes/place/regions.h).
  std::string keep_whole = "auto";
  passes::Workload workload = {};  // what "auto" is for
  /// Links between ranks that are not the target's NVLink, which switches peer_memory "auto" off:
  /// bytes a second each way, and seconds of the smallest all-reduce of two ranks.
  std::optional<double> link_bytes_per_s = {}, link_seconds = {};
  bool gather_logits = false;             // adds the output all_logits that `verify` uses with dp
  bool force_routing = false;             // adds the forced.N inputs that `verify` uses
  bool allow_unused_tensors = false;      // FrontendOptions'
  std::filesystem::path dump_phases_to;   // a .mir file a pass; empty: none
  std::filesystem::path dump_kernels_to;  // .cu and .cubin of every kernel; empty: none
  std::filesystem::path cache_dir;        // empty: default_cache_dir()
  int jobs = 0;                           // NVRTC threads; 0: all cores
  /// Called when a phase ends: "import", "fuse_glu", "lower", "kernels", ... with its seconds and a
  /// remark.
  std::function<void(std::string_view phase, double seconds, std::string_view remark)> on_phase;
  std::function<void(std::string_view warning)> on_warning;
};

/// Everything a plan directory will hold.
struct CompiledPlan {
  Plan plan;
  std::unique_ptr<ir::Module> module;  // after all passes: what the plan was lowered from
  struct File {
    std::string name;  // "kernels/<digest>.cubin"
    std::string bytes;
  };
  std::vector<File> kernels;
  passes::ShardingChoice sharding;  // trials only where it was chosen
  int kernels_compiled = 0, kernels_from_cache = 0;
};

/// Compiles in memory; with `plan_only` kernels are not compiled (their digests stay empty) and
/// memory is planned.
CompiledPlan compile(const CompileOptions& options, bool plan_only = false);
/// The same for a logical model that was imported already, with `options` or otherwise: what they
/// say of the import is not looked at. `checkpoint`, of options.model_dir, has its tensors;
/// nullptr: dummy weights.
CompiledPlan compile(ImportedModel model, const Checkpoint* checkpoint,
                     const CompileOptions& options, bool plan_only = false);

/// options.target with the links that the options name. Throws UserError for an unknown name.
Target target_of(const CompileOptions& options);

/// What compile() does last, for a module that was lowered otherwise: compiles the kernels for
/// options.target, through the cache, notes their digests in the lowered plan, and adds them to
/// `out`, whose plan is left alone. Throws UserError with the compiler's log.
void compile_kernels(codegen::Lowered& lowered, const CompileOptions& options, CompiledPlan& out);

/// What to tell a user who plans for so many ranks and says nothing of their links; may be empty.
std::string links_warning(const CompileOptions& options, int ranks);

/// "l*.attention, logits", or "nothing".
std::string kept_whole_text(const std::vector<std::string>& names);

/// Whether the plan may have ranks reach each other's memory. "auto": on sm_90a with at most 8
/// ranks over the target's own links, which then must be GPUs of one node. Throws UserError for
/// "on" without GPUs.
bool uses_peer_memory(const CompileOptions& options);

/// Throws UserError if write_plan() could not write there: something else stands there, or the
/// folder is read-only.
void check_plan_destination(const std::filesystem::path& directory);

/// Writes a plan directory, atomically: a temporary folder beside it, then a rename. Replaces an
/// existing plan (through a symbolic link too); refuses (UserError) to replace anything else.
void write_plan(const CompiledPlan& compiled, const std::filesystem::path& directory);

struct CachedPlan {
  std::filesystem::path directory;
  bool was_cached = false;
};
/// The plan of these options in the cache, compiled first if it is not there.
CachedPlan compile_cached(const CompileOptions& options);

/// $SHUNT_CACHE_DIR, else $XDG_CACHE_HOME/shunt, else ~/.cache/shunt. Created with mode 0700.
std::filesystem::path default_cache_dir();

/// True if `path` is a folder with a plan.json.
bool is_plan_directory(const std::filesystem::path& path);

/// "sm_90a", "sm_80" of the first GPU, or "cpu" where there is none or no target fits it.
std::string default_target();

/// The module after the frontend and, if asked, all passes, and what a caller needs to run it.
struct ModuleForReference {
  std::unique_ptr<ir::Module> module;
  Limits limits;
  int64_t vocab_size = 0;
  int64_t forced_width = 0;  // k of the inputs forced.N; 0: none
};
ModuleForReference import_module(const CompileOptions& options, bool after_passes);

/// What of a model directory became what: frontends/explain.h.
Explanation explain(const CompileOptions& options);

}  // namespace shunt
