// What `shunt place` works out, before it prints: maps of a model's experts and what they cost.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "passes/place/traffic.h"
#include "tools/expert_map_json.h"

namespace shunt {

struct PlaceOptions {
  std::filesystem::path input;      // a plan or a model directory; only config.json is read
  std::filesystem::path model_dir;  // of a plan: its model directory, if that was moved
  std::string target;               // empty: the plan's, else sm_90a
  std::filesystem::path profile;    // a routing profile, or a golden file with counts
  std::filesystem::path current;    // the map in use; empty: none
  int ranks = 1;
  int nodes = 1;
  int redundant = -1;  // replicas beyond the first, a layer; -1: as many as `current` has, or none
  std::vector<int64_t> tokens = {64, 4096};  // batches to predict: tokens a step over all ranks
  double link_bytes_per_s = 450e9;           // of a rank, each way
  double payback_steps = 1000;               // with `current`: steps in which a move must pay
};

/// The model's MoE layers, the counts to plan from, and the maps to compare. Entries of all lists
/// are MoE layers, by ascending number.
struct PlaceStudy {
  PlaceOptions options;  // with the target filled in
  std::vector<passes::MoeShape> shapes;
  passes::RoutingProfile profile;
  std::vector<std::vector<double>> counts;  // of all windows
  ExpertMap contiguous, planned;
  std::optional<ExpertMap> current;

  /// What the planned map is compared with.
  const ExpertMap& before() const { return current ? *current : contiguous; }
  std::string before_name() const { return current ? "current" : "contiguous"; }
  /// One step of `tokens` tokens, all MoE layers.
  passes::StepEstimate estimate(const ExpertMap& map, int64_t tokens) const;
};

/// Throws UserError if the files do not fit the model or the options cannot be met.
PlaceStudy study_placement(const PlaceOptions& options);

/// A profile of the study's model, e.g. of text that the plan was not made from.
passes::RoutingProfile load_profile_of(const PlaceStudy& study, const std::filesystem::path& file);

/// Sum over layers of the largest rank load, over the sum of the means: layers run one after
/// another.
double overall_balance(const ExpertMap& map, const std::vector<std::vector<double>>& counts);

}  // namespace shunt
