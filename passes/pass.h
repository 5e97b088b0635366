// What a pass is, and what it may look at. The table of passes is pipeline.cpp, the loop that runs
// them runner.h.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ir/expert_map.h"
#include "ir/module.h"
#include "ir/target.h"

namespace shunt::passes {

/// How the tokens of several dp groups reach their experts (docs/placement.md).
enum class MoeComm {
  automatic,  // alltoall where ranks reach each other's memory: no more bytes, and quicker
  allgather,  // every rank gets all tokens, and takes its part of the summed results back
  alltoall,   // a token goes, once, to each rank that has experts it takes, and back
};
constexpr auto enum_names(MoeComm) {
  return std::array<std::string_view, 3>{"auto", "allgather", "alltoall"};
}

/// What a user may choose about the passes. Sizes (T, S, R) are not here: the module declares them.
struct PassOptions {
  std::vector<std::string> skip = {};  // passes not to run, by name
  std::string stop_after = {};         // the last pass to run; empty: all
  std::string dump_dir = {};  // where 00-input.mir, 04-fuse_add_norm.mir, ... go; empty: nowhere
  bool check_changed =
      false;  // compare the module's text to catch a pass that lies about `changed`
  /// Upper bounds of the ranges of T, ascending; the module's own bound ends the list. Empty: the
  /// target's default.
  std::vector<int64_t> decode_buckets = {};
  std::vector<int64_t> prefill_buckets = {};
  Mesh mesh = {};              // of the ranks that the plan is for
  bool gather_logits = false;  // with dp > 1: rank 0 gets the logits of all groups (all_logits)
  MoeComm moe_comm = MoeComm::automatic;
  bool peer_memory = false;                  // ranks reach each other's memory (codegen/lower.h)
  std::optional<ExpertMap> expert_map = {};  // for mesh.ep ranks; without: contiguous experts
  /// Regions (passes/place/regions.h) that every rank along tp computes whole instead of a part.
  std::vector<std::string> keep_whole = {};
};

/// How long things take, in seconds. Pure: the same question always has the same answer.
class CostModel {
 public:
  virtual ~CostModel() = default;
  /// One run of `op` of `graph` with the dims at the values `at`.
  virtual double seconds(const ir::Op& op, const ir::Graph& graph, const DimEnv& at) const = 0;
  /// Whether experts run faster over rows sorted by expert (a grouped matmul) than one route at a
  /// time, when `tokens` tokens choose `choices` of `experts` experts each.
  virtual bool sorted_routes_win(int64_t tokens, int64_t choices, int64_t experts) const = 0;
};

/// max(bytes / bandwidth, flops / rate) + launch, from the target's figures alone. Keeps a
/// reference to `target`.
class RooflineCostModel final : public CostModel {
 public:
  explicit RooflineCostModel(const Target& target) : target_(target) {}
  double seconds(const ir::Op& op, const ir::Graph& graph, const DimEnv& at) const override;
  bool sorted_routes_win(int64_t tokens, int64_t choices, int64_t experts) const override;

 private:
  const Target& target_;
};

/// Borrowed for the time of a run.
struct PassContext {
  const Target& target;
  const PassOptions& options;
  const CostModel& cost;
};

/// Returns true if it changed the module. Throws UserError if the model cannot be compiled. Leaves
/// dead ops to the runner's sweep, keeps pinned values and their names, and keeps the meaning (up
/// to the rounding of values that no longer exist).
using PassFn = bool (*)(ir::Module&, const PassContext&);

struct Pass {
  std::string_view name;
  std::string_view doc;  // one sentence
  ir::Stage needs;       // the earliest stage it works on
  PassFn run;
};

}  // namespace shunt::passes
