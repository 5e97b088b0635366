// Bytes and seconds of a step from a profile. Entry point: estimate_step(). Tested by
// tests/passes/place/traffic_test.cpp.
#include "passes/place/traffic.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ir/error.h"

namespace shunt::passes {

namespace {

struct RankUse {
  double touched = 0;  // probability that a token takes an expert here
  double routes = 0;   // expected, of one token
  double experts = 0;  // expected number that at least one of the batch's tokens takes
};

std::vector<RankUse> rank_uses(const MoeShape& shape, const ExpertMapLayer& map,
                               std::span<const double> load, int ranks, double tokens) {
  const double sum = std::accumulate(load.begin(), load.end(), 0.0);
  std::vector<RankUse> out(ranks);
  std::vector<double> untouched(ranks, 1.0);
  for (size_t e = 0; e < load.size(); ++e) {
    // A token takes an expert at most once, however skewed the counts are.
    const double taken =
        sum > 0 ? std::min(1.0, shape.choices * load[e] / sum)
                : static_cast<double>(shape.choices) / static_cast<double>(load.size());
    for (const ExpertReplica& r : map.experts[e]) {
      const double p = taken * r.share;
      untouched[r.rank] *= 1 - p;
      out[r.rank].routes += p;
      out[r.rank].experts += 1 - std::pow(1 - p, tokens);
    }
  }
  for (int r = 0; r < ranks; ++r) out[r].touched = 1 - untouched[r];
  return out;
}

}  // namespace

StepEstimate& StepEstimate::operator+=(const StepEstimate& other) {
  link_bytes_max += other.link_bytes_max;
  link_bytes_mean += other.link_bytes_mean;
  node_bytes_max += other.node_bytes_max;
  link_seconds += other.link_seconds;
  expert_seconds += other.expert_seconds;
  return *this;
}

StepEstimate estimate_step(const MoeShape& shape, const ExpertMapLayer& map,
                           std::span<const double> load, int ranks, int nodes, double tokens,
                           const Target& target, double link_bytes_per_s) {
  SHUNT_CHECK(static_cast<int>(load.size()) == shape.experts && map.expert_count() == shape.experts,
              "{} loads and {} mapped experts for {}", load.size(), map.expert_count(),
              shape.experts);
  const std::vector<RankUse> use = rank_uses(shape, map, load, ranks, tokens);
  const double own_tokens = tokens / ranks;  // tokens that start on a rank
  const double row = static_cast<double>(shape.row_bytes);
  double touched = 0;
  for (const RankUse& u : use) touched += u.touched;
  StepEstimate out;
  double busiest_phase = 0;
  std::vector<double> node_touched(nodes, 0.0);
  for (int r = 0; r < ranks; ++r) {
    // Dispatch brings `in` and takes `out_of`; combine goes the other way.
    const double in = (ranks - 1) * own_tokens * use[r].touched * row;
    const double out_of = own_tokens * (touched - use[r].touched) * row;
    out.link_bytes_max = std::max(out.link_bytes_max, in + out_of);
    out.link_bytes_mean += (in + out_of) / ranks;
    busiest_phase = std::max({busiest_phase, in, out_of});
    const double bytes = use[r].experts * static_cast<double>(shape.expert_bytes);
    const double flops = use[r].routes * tokens * static_cast<double>(shape.expert_flops);
    out.expert_seconds = std::max(
        {out.expert_seconds, bytes / target.memory_bytes_per_s, flops / target.matmul_flops_per_s});
    node_touched[r / (ranks / nodes)] += use[r].touched;
  }
  const int per_node = ranks / nodes;
  for (int n = 0; n < nodes; ++n) {
    const double in = (ranks - per_node) * own_tokens * node_touched[n] * row;
    const double out_of = per_node * own_tokens * (touched - node_touched[n]) * row;
    out.node_bytes_max = std::max(out.node_bytes_max, in + out_of);
  }
  out.link_seconds = 2 * busiest_phase / link_bytes_per_s;
  return out;
}

}  // namespace shunt::passes
