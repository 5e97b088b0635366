// Reads a model's MoE layers, a profile and the map in use, and plans. Entry point:
// study_placement(). Tested by tests/tools/place_test.cpp.
#include "tools/place.h"

#include <algorithm>
#include <numeric>

#include "ir/error.h"
#include "passes/place/expert_placement.h"
#include "passes/place/moe_shapes.h"
#include "tools/driver.h"

namespace shunt {

namespace {

namespace fs = std::filesystem;
using passes::MoeShape;
using passes::RoutingProfile;
using passes::StepEstimate;

std::vector<MoeShape> read_shapes(PlaceOptions& o) {
  CompileOptions compile;
  compile.model_dir = o.input;
  if (is_plan_directory(o.input)) {
    const Plan plan = load_plan(o.input);
    compile.model_dir = o.model_dir.empty() ? fs::path(plan.model_directory) : o.model_dir;
    if (compile.model_dir.empty()) {
      user_error("{} is a plan of dummy weights: give --model-dir, the folder of its config.json",
                 o.input.string());
    }
    if (o.target.empty()) o.target = plan.target;
  }
  if (o.target.empty()) o.target = "sm_90a";
  compile.target = o.target;
  compile.dummy_weights = true;  // shapes come from config.json alone
  auto shapes = passes::moe_shapes(*import_module(compile, /*after_passes=*/false).module);
  if (shapes.empty()) {
    user_error("{} has no MoE layers: there are no experts to place", o.input.string());
  }
  return shapes;
}

void check_profile(const fs::path& path, const RoutingProfile& profile,
                   const std::vector<MoeShape>& shapes) {
  const std::string file = path.string();
  const auto& counts = profile.windows[0].counts;
  if (counts.size() != shapes.size()) {
    user_error("{}: counts {} layers, the model has {} MoE layers", file, counts.size(),
               shapes.size());
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (!profile.layers.empty() && profile.layers[i] != shapes[i].layer) {
      user_error("{}: counts layer {} where the model has MoE layer {}", file, profile.layers[i],
                 shapes[i].layer);
    }
    if (static_cast<int>(counts[i].size()) != shapes[i].experts) {
      user_error("{}: counts {} experts in layer {}, the model has {}", file, counts[i].size(),
                 shapes[i].layer, shapes[i].experts);
    }
  }
}

/// The map in use, with exactly the model's MoE layers.
ExpertMap load_current(const PlaceOptions& o, const std::vector<MoeShape>& shapes) {
  const std::string file = o.current.string();
  const ExpertMap map = load_expert_map(o.current);
  if (map.ranks != o.ranks) user_error("{}: is for {} ranks, --ep is {}", file, map.ranks, o.ranks);
  ExpertMap out{map.ranks, map.nodes, {}};
  for (const MoeShape& s : shapes) {
    const ExpertMapLayer* layer = map.find_layer(s.layer);
    if (layer == nullptr || layer->expert_count() != s.experts) {
      user_error("{}: must place the {} experts of layer {}", file, s.experts, s.layer);
    }
    out.layers.push_back(*layer);
  }
  if (map.layers.size() != out.layers.size()) {
    user_error("{}: places {} layers, the model has {} MoE layers", file, map.layers.size(),
               shapes.size());
  }
  return out;
}

/// Replicas beyond the first, of the layer that has most.
int most_redundant(const ExpertMap& map) {
  int most = 0;
  for (const ExpertMapLayer& layer : map.layers) most = std::max(most, layer.redundant());
  return most;
}

StepEstimate estimate_layer(const PlaceStudy& s, size_t i, const ExpertMap& map, double tokens) {
  const PlaceOptions& o = s.options;
  return passes::estimate_step(s.shapes[i], map.layers[i], s.counts[i], o.ranks, o.nodes, tokens,
                               find_target(o.target), o.link_bytes_per_s);
}

/// A moved expert pays if it saves, within the payback steps of the largest batch, the time it
/// takes to send.
double move_price(const PlaceStudy& s, size_t i) {
  const PlaceOptions& o = s.options;
  const auto tokens = static_cast<double>(*std::max_element(o.tokens.begin(), o.tokens.end()));
  const double send = static_cast<double>(s.shapes[i].expert_bytes) / o.link_bytes_per_s;
  return send / (o.payback_steps * estimate_layer(s, i, *s.current, tokens).seconds());
}

}  // namespace

StepEstimate PlaceStudy::estimate(const ExpertMap& map, int64_t tokens) const {
  StepEstimate sum;
  for (size_t i = 0; i < shapes.size(); ++i) {
    sum += estimate_layer(*this, i, map, static_cast<double>(tokens));
  }
  return sum;
}

PlaceStudy study_placement(const PlaceOptions& options) {
  PlaceStudy s;
  s.options = options;
  const PlaceOptions& o = s.options;
  s.shapes = read_shapes(s.options);
  s.profile = load_profile_of(s, o.profile);
  s.counts = s.profile.total();
  if (!o.current.empty()) s.current = load_current(o, s.shapes);
  if (o.redundant < 0) s.options.redundant = s.current ? most_redundant(*s.current) : 0;
  s.contiguous = s.planned = {o.ranks, o.nodes, {}};
  for (size_t i = 0; i < s.shapes.size(); ++i) {
    const MoeShape& shape = s.shapes[i];
    passes::PlacementOptions p{o.ranks, o.nodes, o.redundant, shape.groups, nullptr, 0};
    passes::expert_capacity(shape.experts, p);  // reports options that cannot be met
    s.contiguous.layers.push_back(contiguous_experts(shape.layer, shape.experts, o.ranks));
    if (s.current) {
      p.current = &s.current->layers[i];
      p.move_price = move_price(s, i);
    }
    s.planned.layers.push_back(passes::plan_experts(shape.layer, s.counts[i], p));
  }
  validate(s.planned);
  return s;
}

RoutingProfile load_profile_of(const PlaceStudy& study, const std::filesystem::path& file) {
  RoutingProfile profile = load_profile(file);
  check_profile(file, profile, study.shapes);
  return profile;
}

double overall_balance(const ExpertMap& map, const std::vector<std::vector<double>>& counts) {
  double largest = 0, mean = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const std::vector<double> loads = rank_loads(map.layers[i], counts[i], map.ranks);
    largest += *std::max_element(loads.begin(), loads.end());
    mean += std::accumulate(loads.begin(), loads.end(), 0.0) / map.ranks;
  }
  return mean > 0 ? largest / mean : 1;
}

}  // namespace shunt
