// Drops routes beyond an expert's capacity. Entry point: Capacity::apply(). Tests:
// tests/runtime/host/capacity_test.cpp (against the evaluator).
#include "runtime/host/kernels/capacity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ir/random.h"

namespace shunt::host {

namespace {

constexpr float kDropped = -std::numeric_limits<float>::infinity();

/// The second expert is the best of the others by logit plus Gumbel noise.
void sample_second(int64_t seed, int64_t t, int64_t experts, const float* logits, float* w,
                   int32_t* ids) {
  if (ids[0] < 0) return;
  double best = 0;
  ids[1] = -1;
  for (int32_t e = 0; e < experts; ++e) {
    if (e == ids[0]) continue;
    const double noisy = logits[e] - std::log(-std::log(uniform_of_route(seed, t, e)));
    if (ids[1] < 0 || noisy > best) ids[1] = e, best = noisy;
  }
  w[1] = w[0] * std::exp(logits[ids[1]] - logits[ids[0]]);
}

}  // namespace

void Capacity::apply(const float* logits, const int32_t* forced, float* w, int32_t* ids,
                     ThreadPool& pool) const {
  const int64_t routes = tokens * k;
  for (int64_t t = 0; sample_second && t < tokens; ++t) {
    if (forced != nullptr && forced[t * k] >= 0) continue;
    host::sample_second(seed, t, experts, logits + t * experts, w + t * k, ids + t * k);
  }
  // In float32, as DeepSpeed computes it.
  const auto mean = static_cast<float>(static_cast<double>(tokens) / static_cast<double>(experts));
  const float slots = std::ceil(mean * factor);
  const int64_t capacity = std::max(static_cast<int64_t>(slots), min_capacity);

  // Routes sorted by expert, and within one by who goes first.
  const auto words = static_cast<size_t>(routes);
  auto* order = static_cast<int32_t*>(
      pool.scratch(-2, words * (sizeof(int32_t) + sizeof(float)) + sizeof(float)));
  auto* key = reinterpret_cast<float*>(order + words);  // [routes], larger goes first
  int64_t n = 0;
  for (int64_t r = 0; drop != HostDrop::none && r < routes; ++r) {
    if (ids[r] < 0) continue;
    order[n++] = static_cast<int32_t>(r);
    switch (drop) {
      case HostDrop::score: key[r] = w[r]; break;
      case HostDrop::random:
        key[r] = static_cast<float>(uniform_of_route(seed, r / k, ids[r]));
        break;
      case HostDrop::order:
      case HostDrop::none: key[r] = 0; break;
    }
  }
  // Of equals, first choices before second ones (k <= 2), then by token.
  const auto before = [&](int32_t a, int32_t b) {
    if (ids[a] != ids[b]) return ids[a] < ids[b];
    if (key[a] != key[b]) return key[a] > key[b];
    if (k <= 2 && a % k != b % k) return a % k < b % k;
    return a < b;
  };
  std::sort(order, order + n, before);
  int64_t place = 0;
  int32_t expert = -1;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t r = order[i];
    place = ids[r] == expert ? place + 1 : 0;
    expert = ids[r];
    if (place >= capacity) key[r] = kDropped;
  }
  for (int64_t i = 0; i < n; ++i) {
    if (key[order[i]] == kDropped) ids[order[i]] = -1;
  }
  for (int64_t t = 0; t < tokens; ++t) {
    float sum = 0;
    for (int64_t j = t * k; j < (t + 1) * k; ++j) sum += w[j] = ids[j] < 0 ? 0.0f : w[j];
    const float divide = normalise ? std::max(sum + norm_eps, norm_min) : 1.0f;
    for (int64_t j = t * k; j < (t + 1) * k; ++j) w[j] = ids[j] < 0 ? 0.0f : w[j] / divide * scale;
  }
}

}  // namespace shunt::host
