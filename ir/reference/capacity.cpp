// Expert capacity. Entry point: drop_routes(). Tested by tests/ir/capacity_test.cpp against cases
// computed by DeepSpeed.
#include "ir/reference/capacity.h"

#include <algorithm>
#include <cmath>

#include "ir/error.h"
#include "ir/random.h"

namespace shunt::ir {

namespace {

/// The second expert is the best of the others by logit plus Gumbel noise.
void sample_second(const TopkGateAttrs& a, int64_t t, int64_t experts, const float* logits,
                   float* w, int32_t* ids) {
  if (ids[0] < 0) return;
  double best = 0;
  ids[1] = -1;
  for (int32_t e = 0; e < experts; ++e) {
    if (e == ids[0]) continue;
    const double noisy = logits[e] - std::log(-std::log(uniform_of_route(a.seed, t, e)));
    if (ids[1] < 0 || noisy > best) ids[1] = e, best = noisy;
  }
  w[1] = static_cast<float>(w[0] * std::exp(static_cast<double>(logits[ids[1]]) - logits[ids[0]]));
}

/// Routes t * k + j in the order in which they take slots: all first choices, then all second ones;
/// with more choices by token.
std::vector<size_t> slot_order(int64_t tokens, int64_t k) {
  std::vector<size_t> order;
  for (int64_t a = 0; a < (k > 2 ? tokens : k); ++a) {
    for (int64_t b = 0; b < (k > 2 ? k : tokens); ++b) {
      order.push_back(static_cast<size_t>(k > 2 ? a * k + b : b * k + a));
    }
  }
  return order;
}

/// For each route whether it stays.
std::vector<bool> choose_kept(const TopkGateAttrs& a, int64_t capacity, int64_t experts,
                              const std::vector<size_t>& order, const float* w,
                              const int32_t* ids) {
  std::vector<bool> kept(order.size(), false);
  for (int32_t e = 0; e < experts; ++e) {
    std::vector<size_t> mine;
    for (const size_t r : order) {
      if (ids[r] == e) mine.push_back(r);
    }
    const auto key = [&](size_t r) {
      return a.drop == Drop::score ? static_cast<double>(w[r])
                                   : uniform_of_route(a.seed, static_cast<int64_t>(r) / a.k, e);
    };
    if (a.drop == Drop::score || a.drop == Drop::random) {
      std::stable_sort(mine.begin(), mine.end(),
                       [&](size_t x, size_t y) { return key(x) > key(y); });
    }
    if (a.drop != Drop::none && static_cast<int64_t>(mine.size()) > capacity) {
      mine.resize(static_cast<size_t>(capacity));
    }
    for (const size_t r : mine) kept[r] = true;
  }
  return kept;
}

/// E / k times the sum over experts of (mean probability) * (share of routes). Of two choices only
/// the first counts.
double aux_loss(int64_t tokens, int64_t experts, int64_t k, const float* logits,
                const int32_t* ids) {
  std::vector<double> probability(static_cast<size_t>(experts)), share(probability);
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = logits + t * experts;
    const double top = *std::max_element(row, row + experts);
    double sum = 0;
    for (int64_t e = 0; e < experts; ++e) sum += std::exp(row[e] - top);
    for (int64_t e = 0; e < experts; ++e) probability[e] += std::exp(row[e] - top) / sum;
    for (int64_t j = 0; j < (k > 2 ? k : 1); ++j) {
      if (ids[t * k + j] >= 0) share[ids[t * k + j]] += 1;
    }
  }
  double total = 0;
  for (int64_t e = 0; e < experts; ++e) total += probability[e] * share[e];
  const auto n = static_cast<double>(tokens);
  return total / (n * n) * static_cast<double>(experts) / static_cast<double>(k > 2 ? k : 1);
}

void finish_weights(const TopkGateAttrs& a, float* w, const int32_t* ids) {
  double sum = 0;
  for (int64_t j = 0; j < a.k; ++j) sum += ids[j] < 0 ? 0 : w[j];
  const double divide = a.norm == RouteNorm::sum ? std::max(sum + a.norm_eps, a.norm_min) : 1;
  for (int64_t j = 0; j < a.k; ++j) {
    w[j] = ids[j] < 0 ? 0 : static_cast<float>(w[j] / divide * a.scale);
  }
}

}  // namespace

int64_t expert_capacity(const TopkGateAttrs& a, int64_t tokens, int64_t experts) {
  const auto mean = static_cast<float>(static_cast<double>(tokens) / static_cast<double>(experts));
  const auto factor = static_cast<float>(a.capacity_factor * static_cast<double>(a.k));
  const auto slots = static_cast<int64_t>(std::ceil(mean * factor));
  return std::max(slots, a.min_capacity);
}

RouteReport drop_routes(const TopkGateAttrs& a, int64_t tokens, int64_t experts,
                        const float* logits, const int32_t* forced, float* w, int32_t* ids) {
  const auto routes = static_cast<size_t>(tokens * a.k);
  for (int64_t t = 0; a.sample_second && t < tokens; ++t) {
    if (forced != nullptr && forced[t * a.k] >= 0) continue;
    sample_second(a, t, experts, logits + t * experts, w + t * a.k, ids + t * a.k);
  }
  RouteReport report;
  report.aux_loss = aux_loss(tokens, experts, a.k, logits, ids);
  report.counts.resize(static_cast<size_t>(experts));
  report.slots.assign(routes, -1);
  for (size_t r = 0; r < routes; ++r) {
    if (ids[r] >= 0) ++report.counts[ids[r]];
  }
  report.capacity = a.drop == Drop::none
                        ? *std::max_element(report.counts.begin(), report.counts.end())
                        : expert_capacity(a, tokens, experts);
  const std::vector<size_t> order = slot_order(tokens, a.k);
  const std::vector<bool> kept = choose_kept(a, report.capacity, experts, order, w, ids);
  std::vector<int32_t> used(static_cast<size_t>(experts), 0);
  for (const size_t r : order) {
    if (kept[r]) report.slots[r] = used[ids[r]]++;
  }
  for (size_t r = 0; r < routes; ++r) {
    if (!kept[r]) ids[r] = -1;
  }
  for (int64_t t = 0; t < tokens; ++t) finish_weights(a, w + t * a.k, ids + t * a.k);
  return report;
}

}  // namespace shunt::ir
