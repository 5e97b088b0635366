// Rules and arithmetic of expert maps. Entry point: validate(). Tested by
// tests/passes/place/expert_map_test.cpp.
#include "ir/expert_map.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ir/error.h"

namespace shunt {

namespace {

void validate(const ExpertMap& map, const ExpertMapLayer& layer) {
  if (layer.experts.empty()) user_error("layer {}: has no experts", layer.layer);
  for (int e = 0; e < layer.expert_count(); ++e) {
    const std::vector<ExpertReplica>& replicas = layer.experts[e];
    if (replicas.empty()) user_error("layer {}, expert {}: is on no rank", layer.layer, e);
    double sum = 0;
    int previous = -1;
    for (const ExpertReplica& r : replicas) {
      if (r.rank < 0 || r.rank >= map.ranks) {
        user_error("layer {}, expert {}: rank {} is not one of the map's {} ranks", layer.layer, e,
                   r.rank, map.ranks);
      }
      if (r.rank == previous)
        user_error("layer {}, expert {}: is twice on rank {}", layer.layer, e, r.rank);
      if (r.rank < previous)
        user_error("layer {}, expert {}: its ranks are not ascending", layer.layer, e);
      if (!(r.share > 0)) {  // also NaN
        user_error("layer {}, expert {}: the share of rank {} must be above 0", layer.layer, e,
                   r.rank);
      }
      sum += r.share;
      previous = r.rank;
    }
    if (!(std::abs(sum - 1) <= 1e-6)) {
      user_error("layer {}, expert {}: its shares sum to {:g}, not to 1", layer.layer, e, sum);
    }
  }
}

}  // namespace

int ExpertMapLayer::redundant() const {
  int copies = 0;
  for (const auto& replicas : experts) copies += static_cast<int>(replicas.size());
  return copies - expert_count();
}

std::vector<int> ExpertMapLayer::experts_on(int rank) const {
  std::vector<int> out;
  for (int e = 0; e < expert_count(); ++e) {
    for (const ExpertReplica& r : experts[e]) {
      if (r.rank == rank) out.push_back(e);
    }
  }
  return out;
}

const ExpertMapLayer* ExpertMap::find_layer(int layer) const {
  for (const ExpertMapLayer& l : layers) {
    if (l.layer == layer) return &l;
  }
  return nullptr;
}

void validate(const ExpertMap& map) {
  if (map.ranks < 1) user_error("ranks must be at least 1, is {}", map.ranks);
  if (map.nodes < 1 || map.ranks % map.nodes != 0) {
    user_error("nodes must divide the {} ranks, is {}", map.ranks, map.nodes);
  }
  int previous = -1;
  for (const ExpertMapLayer& layer : map.layers) {
    if (layer.layer <= previous)
      user_error("layer {}: layer numbers must ascend from 0", layer.layer);
    validate(map, layer);
    previous = layer.layer;
  }
}

ExpertMapLayer contiguous_experts(int layer, int experts, int ranks) {
  ExpertMapLayer out{layer, {}};
  const int whole = experts / ranks, longer = experts % ranks;
  for (int r = 0; r < ranks; ++r) {
    out.experts.insert(out.experts.end(), whole + (r < longer ? 1 : 0), {{r, 1.0}});
  }
  return out;
}

std::vector<double> rank_loads(const ExpertMapLayer& layer, std::span<const double> load,
                               int ranks) {
  SHUNT_CHECK(load.size() == layer.experts.size(), "{} loads for {} experts", load.size(),
              layer.experts.size());
  std::vector<double> out(ranks, 0.0);
  for (size_t e = 0; e < load.size(); ++e) {
    for (const ExpertReplica& r : layer.experts[e]) out[r.rank] += r.share * load[e];
  }
  return out;
}

double max_over_mean(std::span<const double> loads) {
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  if (!(sum > 0)) return 1;
  return *std::max_element(loads.begin(), loads.end()) * static_cast<double>(loads.size()) / sum;
}

int moved_experts(const ExpertMapLayer& from, const ExpertMapLayer& to) {
  SHUNT_CHECK(from.experts.size() == to.experts.size(), "maps of different models");
  int moved = 0;
  for (size_t e = 0; e < to.experts.size(); ++e) {
    for (const ExpertReplica& r : to.experts[e]) {
      const auto& had = from.experts[e];
      moved += std::none_of(had.begin(), had.end(),
                            [&](const ExpertReplica& h) { return h.rank == r.rank; });
    }
  }
  return moved;
}

}  // namespace shunt
