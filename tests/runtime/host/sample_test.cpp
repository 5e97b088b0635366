// sample against the plain definition: sort, keep, renormalise, walk ids upwards.
#include <algorithm>
#include <numeric>

#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

/// Kept ids with their probabilities, in id order.
std::vector<std::pair<int32_t, double>> kept(const std::vector<float>& logits, double temperature,
                                             int64_t top_k, double top_p) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  if (top_k > 0 && top_k < static_cast<int64_t>(order.size()))
    order.resize(static_cast<size_t>(top_k));
  std::vector<std::pair<int32_t, double>> p;
  double total = 0;
  for (int32_t id : order) {
    p.emplace_back(id, std::exp((static_cast<double>(logits[static_cast<size_t>(id)]) -
                                 logits[static_cast<size_t>(order[0])]) /
                                temperature));
    total += p.back().second;
  }
  double mass = 0;
  size_t n = 0;
  while (n < p.size() && (n == 0 || mass < top_p * total)) mass += p[n++].second;
  p.resize(n);
  for (auto& [id, weight] : p) weight /= mass;
  std::sort(p.begin(), p.end());
  return p;
}

struct Rows {
  std::vector<float> logits, temperature, top_p, uniform;
  std::vector<int32_t> top_k, ids;
  void run(int64_t rows, int64_t vocab) {
    ids.assign(static_cast<size_t>(rows), -7);
    Call()
        .p(logits)
        .p(temperature)
        .p(top_k)
        .p(top_p)
        .p(uniform)
        .i(rows)
        .i(vocab)
        .p(ids)
        .run("sample", pool());
  }
};

TEST(HostSample, MatchesTheDefinition) {
  for (int round = 0; round < 300; ++round) {
    const int64_t rows = pick(0, 4), vocab = pick(1, 300);
    Rows r;
    r.logits = random_floats(rows * vocab, 3.0f);
    for (float& x : r.logits) x = std::round(x * 4) / 4;  // many ties
    for (int64_t i = 0; i < rows; ++i) {
      r.temperature.push_back(static_cast<float>(pick(1, 20)) / 10);
      r.top_k.push_back(static_cast<int32_t>(pick(0, 2) == 0 ? 0 : pick(1, vocab + 3)));
      r.top_p.push_back(pick(0, 1) == 0 ? 1.0f : static_cast<float>(pick(0, 99)) / 100);
      r.uniform.push_back(static_cast<float>(pick(0, 9999)) / 10000);
    }
    r.run(rows, vocab);
    for (int64_t i = 0; i < rows; ++i) {
      const auto at = static_cast<size_t>(i);
      const std::vector<float> row(r.logits.begin() + i * vocab,
                                   r.logits.begin() + (i + 1) * vocab);
      const auto p = kept(row, r.temperature[at], r.top_k[at], r.top_p[at]);
      double cumulative = 0, before = 0;
      int32_t want = p.back().first;
      double margin = 1;
      for (const auto& [id, weight] : p) {
        before = cumulative;
        cumulative += weight;
        margin = std::min({margin, std::fabs(cumulative - r.uniform[at]),
                           std::fabs(before - r.uniform[at]) + (before == 0 ? 1 : 0)});
        if (cumulative > r.uniform[at]) {
          want = id;
          break;
        }
      }
      if (margin > 1e-9) {
        EXPECT_EQ(r.ids[at], want);
      }
      // Whatever the rounding: an id that was kept.
      EXPECT_TRUE(
          std::any_of(p.begin(), p.end(), [&](const auto& x) { return x.first == r.ids[at]; }));
    }
  }
}

TEST(HostSample, GreedyTakesTheLowestOfEquals) {
  Rows r;
  r.logits = {1, 5, 5, 0, /**/ -3, -2, -9, -2};
  r.temperature = {0, 0};
  r.top_k = {0, 1};
  r.top_p = {1, 1};
  r.uniform = {0.9f, 0.9f};
  r.run(2, 4);
  EXPECT_EQ(r.ids, (std::vector<int32_t>{1, 1}));
}

TEST(HostSample, TopKOfOneIsGreedyAtAnyTemperature) {
  Rows r;
  r.logits = {0, 2, 2, 1};
  r.temperature = {5};
  r.top_k = {1};
  r.top_p = {1};
  r.uniform = {0.999f};
  r.run(1, 4);
  EXPECT_EQ(r.ids[0], 1);
}

TEST(HostSample, FrequenciesFollowTheProbabilities) {
  const int64_t rows = 20000;
  Rows r;
  for (int64_t i = 0; i < rows; ++i) {
    for (float x : {0.0f, 1.0f, 2.0f}) r.logits.push_back(x);
    r.temperature.push_back(2);
    r.top_k.push_back(0);
    r.top_p.push_back(1);
    r.uniform.push_back((static_cast<float>(i) + 0.5f) / static_cast<float>(rows));
  }
  r.run(rows, 3);
  const double total = 1 + std::exp(0.5) + std::exp(1.0);
  for (int id = 0; id < 3; ++id) {
    const auto count = std::count(r.ids.begin(), r.ids.end(), id);
    EXPECT_NEAR(static_cast<double>(count) / rows, std::exp(0.5 * id) / total, 1e-3);
  }
}

}  // namespace
}  // namespace shunt
