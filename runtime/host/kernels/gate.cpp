// Host kernels topk_gate and norm_gate: the router. Test: tests/runtime/host/gate_test.cpp.
#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/host/kernels/capacity.h"
#include "runtime/host/kernels/norm.h"

namespace shunt::host {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

struct Gate {
  Weight selection_bias;              // [experts] or none
  const int32_t* forced;              // [T, k] or nullptr
  int64_t tokens, valid, experts, k;  // tokens from `valid` on are padding: no route
  HostScore score;
  HostRouteNorm norm;
  float norm_eps, norm_min, scale, jitter;
  int64_t groups, keep_groups;
  HostGroupScore group_score;
  float* w;                     // [T, k]
  int32_t* ids;                 // [T, k]
  int64_t* counts;              // [experts], routes so far
  const float* bias = nullptr;  // selection_bias as float32

  /// Floats that row() needs: scores, and what the choice goes by.
  int64_t scratch_floats() const { return 2 * experts + 2 * groups; }
  void row(int64_t t, const float* logits, float* scratch) const;
  /// Once the routes are final. On one thread: an increment is nothing beside a row of logits.
  void count() const {
    for (int64_t r = 0; r < valid * k; ++r) {
      if (ids[r] >= 0) ++counts[ids[r]];
    }
  }

 private:
  void scores(const float* logits, float* s) const;
  void mix(const float* logits, const int32_t* use, float* left, int32_t* id, float* weight) const;
  void mask_groups(float* choose, float* group_best) const;
  void weights(const float* logits, const float* s, const int32_t* id, float* weight) const;
};

void Gate::scores(const float* logits, float* s) const {
  const Simd& v = simd();
  switch (score) {
    case HostScore::softmax: {
      const float total = v.exp_sum(s, logits, v.max(logits, experts), experts);
      for (int64_t e = 0; e < experts; ++e) s[e] /= total;
      return;
    }
    case HostScore::sigmoid: return v.unary[static_cast<int>(Unary::sigmoid)](s, logits, experts);
    case HostScore::sqrt_softplus:
      for (int64_t e = 0; e < experts; ++e) {
        const float x = logits[e];
        s[e] = std::sqrt(std::max(x, 0.0f) + std::log1p(std::exp(-std::fabs(x))));
      }
      return;
    case HostScore::sparse_mixer:
    case HostScore::identity:
      std::memcpy(s, logits, static_cast<size_t>(experts) * sizeof(float));
      return;
  }
}

/// Position of the largest number, the first of equals. Taken ones are NaN.
int64_t largest(const float* x, int64_t n) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isnan(x[i]) && (best < 0 || x[i] > x[best])) best = i;
  }
  return best < 0 ? 0 : best;
}

/// Experts of all but the best groups take no part.
void Gate::mask_groups(float* choose, float* group_best) const {
  const int64_t size = experts / groups;
  float* kept = group_best + groups;
  for (int64_t g = 0; g < groups; ++g) {
    float first = kNone, second = kNone;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) {
      if (choose[e] > first) {
        second = first;
        first = choose[e];
      } else {
        second = std::max(second, choose[e]);
      }
    }
    group_best[g] = group_score == HostGroupScore::max ? first : first + second;
    kept[g] = 0;
  }
  for (int64_t i = 0; i < keep_groups; ++i) {
    const int64_t g = largest(group_best, groups);
    kept[g] = 1;
    group_best[g] = std::numeric_limits<float>::quiet_NaN();
  }
  for (int64_t g = 0; g < groups; ++g) {
    if (kept[g] == 0) std::fill_n(choose + g * size, size, kNone);
  }
}

void Gate::weights(const float* logits, const float* s, const int32_t* id, float* weight) const {
  // A forced route may be dropped (-1): it has no weight.
  for (int64_t j = 0; j < k; ++j) weight[j] = id[j] < 0 ? 0.0f : s[id[j]];
  float divide = 1;
  if (norm == HostRouteNorm::sum) {
    float sum = 0;
    for (int64_t j = 0; j < k; ++j) sum += weight[j];
    divide = std::max(sum + norm_eps, norm_min);
  } else if (norm == HostRouteNorm::softmax) {
    float top = kNone;
    for (int64_t j = 0; j < k; ++j) top = id[j] < 0 ? top : std::max(top, logits[id[j]]);
    divide = 0;
    for (int64_t j = 0; j < k; ++j)
      divide += weight[j] = id[j] < 0 ? 0.0f : std::exp(logits[id[j]] - top);
  }
  for (int64_t j = 0; j < k; ++j) weight[j] = weight[j] / divide * scale;
}

/// The sparse mixer: one expert after another, each with its softmax among the logits near to it
/// that are left. `left` is a copy of the logits, of which taken ones become NaN.
void Gate::mix(const float* logits, const int32_t* use, float* left, int32_t* id,
               float* weight) const {
  std::memcpy(left, logits, static_cast<size_t>(experts) * sizeof(float));
  for (int64_t j = 0; j < k; ++j) {
    const int64_t best = largest(left, experts);
    const float top = logits[best];
    const auto near = [&](int64_t e) {
      return !std::isnan(left[e]) &&
             !((top - logits[e]) / std::max(std::fabs(logits[e]), top) > jitter);
    };
    float sum = 0;
    for (int64_t e = 0; e < experts; ++e) sum += near(e) ? std::exp(logits[e] - top) : 0.0f;
    id[j] = use != nullptr ? use[j] : static_cast<int32_t>(best);
    weight[j] = 0;
    if (id[j] < 0) continue;
    if (near(id[j])) weight[j] = std::exp(logits[id[j]] - top) / sum * scale;
    left[id[j]] = std::numeric_limits<float>::quiet_NaN();
  }
}

void Gate::row(int64_t t, const float* logits, float* scratch) const {
  float* s = scratch;
  float* choose = s + experts;
  int32_t* id = ids + t * k;
  if (score == HostScore::sparse_mixer) {
    const bool use = forced != nullptr && forced[t * k] >= 0;
    return mix(logits, use ? forced + t * k : nullptr, s, id, w + t * k);
  }
  scores(logits, s);
  if (forced != nullptr && forced[t * k] >= 0) {
    std::copy_n(forced + t * k, k, id);
    return weights(logits, s, id, w + t * k);
  }
  std::memcpy(choose, s, static_cast<size_t>(experts) * sizeof(float));
  if (bias != nullptr) {
    for (int64_t e = 0; e < experts; ++e) choose[e] += bias[e];
  }
  if (keep_groups < groups) mask_groups(choose, choose + experts);
  for (int64_t j = 0; j < k; ++j) {
    id[j] = static_cast<int32_t>(largest(choose, experts));
    choose[id[j]] = std::numeric_limits<float>::quiet_NaN();
  }
  weights(logits, s, id, w + t * k);
}

/// Reads "selection_bias|null, bias_dtype, forced|null, T, valid|null, E, k, ... w, ids, counts".
Gate read_gate(Args& args) {
  Gate g;
  g.selection_bias = read_weight(args);
  g.forced = args.ints();
  g.tokens = args.integer();
  const int32_t* valid = args.ints();
  g.valid = valid == nullptr ? g.tokens : std::min<int64_t>(*valid, g.tokens);
  g.experts = args.integer();
  g.k = args.integer();
  g.score = args.choice<HostScore>();
  g.norm = args.choice<HostRouteNorm>();
  g.norm_eps = args.real();
  g.norm_min = args.real();
  g.scale = args.real();
  g.jitter = args.real();
  g.groups = args.integer();
  g.keep_groups = args.integer();
  g.group_score = args.choice<HostGroupScore>();
  g.w = args.pointer<float>();
  g.ids = args.pointer<int32_t>();
  g.counts = args.pointer<int64_t>();
  std::fill(g.w + g.valid * g.k, g.w + g.tokens * g.k, 0.0f);
  std::fill(g.ids + g.valid * g.k, g.ids + g.tokens * g.k, -1);
  for (int64_t t = 0; g.forced != nullptr && t < g.valid; ++t) {
    if (g.forced[t * g.k] < 0) continue;
    for (int64_t j = t * g.k; j < (t + 1) * g.k; ++j) {
      SHUNT_CHECK(g.forced[j] < g.experts, "forced expert {} of {}", g.forced[j], g.experts);
    }
  }
  return g;
}

/// Reads "drop, k * capacity_factor, min_capacity, sample_second, seed".
Capacity read_capacity(Args& args, const Gate& g) {
  Capacity c;
  c.drop = args.choice<HostDrop>();
  c.factor = args.real();
  c.min_capacity = args.integer();
  c.sample_second = args.flag();
  c.seed = args.integer();
  c.tokens = g.valid;
  c.experts = g.experts;
  c.k = g.k;
  c.normalise = g.norm == HostRouteNorm::sum;
  c.norm_eps = g.norm_eps;
  c.norm_min = g.norm_min;
  c.scale = g.scale;
  return c;
}

/// norm_gate's part before the gate: sum, norm, router logits.
struct NormRouter {
  const float* x;  // [T, h]
  const float* y;  // [T, h] or nullptr
  Weight norm, router, router_bias;
  int64_t tokens, h;
  float eps, shift;
  float* sum;                          // [T, h]
  float* normed;                       // [T, h]
  float* logits;                       // [T, experts]
  const float* norm_weight = nullptr;  // as float32
  const float* bias = nullptr;

  /// Rows [begin, begin + n), n <= dot_rows.
  void rows(int64_t begin, int n, int64_t experts) const {
    const Simd& v = simd();
    const float* inputs[8];
    for (int i = 0; i < n; ++i) {
      const int64_t at = (begin + i) * h;
      if (y != nullptr) {
        v.binary[static_cast<int>(Binary::add)](sum + at, x + at, y + at, h);
      } else {
        std::memcpy(sum + at, x + at, static_cast<size_t>(h) * sizeof(float));
      }
      rms_norm_row(normed + at, sum + at, norm_weight, shift, eps, h);
      inputs[i] = normed + at;
    }
    v.dot(inputs, n, router.p, router.dtype, h, experts, h, logits + begin * experts, experts);
    for (int i = 0; bias != nullptr && i < n; ++i) {
      float* row = logits + (begin + i) * experts;
      v.binary[static_cast<int>(Binary::add)](row, row, bias, experts);
    }
  }
};

}  // namespace

void topk_gate(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* logits = args.floats();  // [T, E]
  Gate gate = read_gate(args);
  const Capacity capacity = read_capacity(args, gate);
  args.done();
  if (capacity.active()) {  // which normalises what is left
    gate.norm = HostRouteNorm::none;
    gate.scale = 1;
  }
  if (gate.selection_bias) {
    auto* buffer =
        static_cast<float*>(pool.scratch(-1, static_cast<size_t>(gate.experts) * sizeof(float)));
    gate.bias = gate.selection_bias.floats(0, gate.experts, buffer);
  }
  for_rows(pool, gate.valid, gate.experts * (gate.k + 8), [&](int64_t t, int worker) {
    const size_t bytes = static_cast<size_t>(gate.scratch_floats()) * sizeof(float);
    gate.row(t, logits + t * gate.experts, static_cast<float*>(pool.scratch(worker, bytes)));
  });
  if (capacity.active()) capacity.apply(logits, gate.forced, gate.w, gate.ids, pool);
  gate.count();
}

void norm_gate(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  NormRouter router;
  router.x = args.floats();
  router.y = args.floats();
  router.norm = read_weight(args);
  router.router = read_weight(args);
  router.router_bias = read_weight(args);
  router.tokens = args.integer();
  router.h = args.integer();
  router.eps = args.real();
  router.shift = args.flag() ? 1.0f : 0.0f;
  router.sum = args.pointer<float>();
  router.normed = args.pointer<float>();
  router.logits = args.pointer<float>();
  Gate gate = read_gate(args);
  args.done();

  const int64_t h = router.h, experts = gate.experts;
  auto* buffer =
      static_cast<float*>(pool.scratch(-1, static_cast<size_t>(h + 2 * experts) * sizeof(float)));
  router.norm_weight = router.norm.floats(0, h, buffer);
  if (router.router_bias) router.bias = router.router_bias.floats(0, experts, buffer + h);
  if (gate.selection_bias) gate.bias = gate.selection_bias.floats(0, experts, buffer + h + experts);

  const int64_t step = simd().dot_rows;
  const int64_t blocks = ceil_div(router.tokens, step);
  for_rows(pool, blocks, step * (h * 4 + h * experts / 8), [&](int64_t block, int worker) {
    const int64_t begin = block * step;
    const int n = static_cast<int>(std::min(step, router.tokens - begin));
    router.rows(begin, n, experts);
    const size_t bytes = static_cast<size_t>(gate.scratch_floats()) * sizeof(float);
    auto* scratch = static_cast<float*>(pool.scratch(worker, bytes));
    const int64_t end = std::min(begin + n, gate.valid);
    for (int64_t t = begin; t < end; ++t) gate.row(t, router.logits + t * experts, scratch);
  });
  gate.count();
}

}  // namespace shunt::host
