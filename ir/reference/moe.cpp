// eval_ of routing: topk_gate, norm_gate, route_sort, combine_routes. Tested by
// tests/ir/evaluator_test.cpp.
#include <algorithm>
#include <limits>

#include "ir/reference/capacity.h"
#include "ir/reference/math.h"
#include "ir/reference/op_call.h"

namespace shunt::ir {

namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

std::vector<float> scores(ScoreFunction function, const float* logits, int64_t n) {
  std::vector<float> s(logits, logits + n);
  if (function == ScoreFunction::softmax) {
    const double top = *std::max_element(s.begin(), s.end());
    double sum = 0;
    for (float x : s) sum += std::exp(x - top);
    for (float& x : s) x = static_cast<float>(std::exp(x - top) / sum);
  } else if (function == ScoreFunction::sigmoid) {
    for (float& x : s) x = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(x))));
  } else if (function == ScoreFunction::sqrt_softplus) {
    for (float& x : s) {  // softplus in the form that does not overflow
      const double v = x;
      x = static_cast<float>(std::sqrt(std::max(v, 0.0) + std::log1p(std::exp(-std::abs(v)))));
    }
  }
  return s;
}

/// Indices of the `k` largest, in descending order; the lowest index of equals comes first.
std::vector<int32_t> largest(const std::vector<float>& x, int64_t k) {
  std::vector<int32_t> order(x.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
  order.resize(static_cast<size_t>(k));
  return order;
}

/// Experts of all but the best groups become unchoosable.
void mask_groups(const TopkGateAttrs& a, std::vector<float>& choose) {
  const auto size = static_cast<std::ptrdiff_t>(choose.size()) / a.groups;
  std::vector<float> group_scores;
  for (int64_t g = 0; g < a.groups; ++g) {
    std::vector<float> group(choose.begin() + g * size, choose.begin() + (g + 1) * size);
    std::sort(group.begin(), group.end(), std::greater<>());
    group_scores.push_back(a.group_score == GroupScore::max ? group[0] : group[0] + group[1]);
  }
  std::vector<bool> kept(static_cast<size_t>(a.groups), false);
  for (int32_t g : largest(group_scores, a.keep_groups)) kept[g] = true;
  for (size_t e = 0; e < choose.size(); ++e) {
    if (!kept[e / static_cast<size_t>(size)]) choose[e] = kMasked;
  }
}

/// The sparse mixer: see TopkGateAttrs. `forced` or nullptr.
void mix_row(const TopkGateAttrs& a, const float* logits, int64_t experts, const int32_t* forced,
             float* w, int32_t* ids) {
  std::vector<bool> taken(static_cast<size_t>(experts), false);
  for (int64_t j = 0; j < a.k; ++j) {
    int64_t best = -1;
    for (int64_t e = 0; e < experts; ++e) {
      if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
    }
    const float top = logits[best];
    const auto outside = [&](int64_t e) {
      return (top - logits[e]) / std::max(std::abs(logits[e]), top) > static_cast<float>(a.jitter);
    };
    double sum = 0;
    for (int64_t e = 0; e < experts; ++e) {
      if (!taken[e] && !outside(e)) sum += std::exp(static_cast<double>(logits[e]) - top);
    }
    ids[j] = forced != nullptr ? forced[j] : static_cast<int32_t>(best);
    if (ids[j] >= experts) user_error("forced expert id {} is outside [0, {})", ids[j], experts);
    w[j] = 0;
    if (ids[j] < 0) continue;
    const int64_t id = ids[j];
    if (!taken[id] && !outside(id)) {
      w[j] = static_cast<float>(std::exp(static_cast<double>(logits[id]) - top) / sum * a.scale);
    }
    taken[id] = true;
  }
}

}  // namespace

void route_row(const TopkGateAttrs& a, const float* logits, int64_t experts, const float* bias,
               const int32_t* forced, float* w, int32_t* ids) {
  if (a.score == ScoreFunction::sparse_mixer) {
    const bool use = forced != nullptr && forced[0] >= 0;
    return mix_row(a, logits, experts, use ? forced : nullptr, w, ids);
  }
  const std::vector<float> score = scores(a.score, logits, experts);
  if (forced != nullptr && forced[0] >= 0) {
    std::copy_n(forced, a.k, ids);
  } else {
    std::vector<float> choose = score;
    for (int64_t e = 0; bias != nullptr && e < experts; ++e) choose[e] += bias[e];
    if (a.groups > 1) mask_groups(a, choose);
    const std::vector<int32_t> best = largest(choose, a.k);
    std::copy(best.begin(), best.end(), ids);
  }
  double sum = 0, top = kMasked;
  for (int64_t j = 0; j < a.k; ++j) {
    if (ids[j] >= experts) user_error("forced expert id {} is outside [0, {})", ids[j], experts);
    w[j] = ids[j] < 0 ? 0 : score[ids[j]];
    if (ids[j] >= 0) sum += w[j], top = std::max<double>(top, w[j]);
  }
  double exp_sum = 0;
  for (int64_t j = 0; j < a.k; ++j) exp_sum += ids[j] < 0 ? 0 : std::exp(w[j] - top);
  for (int64_t j = 0; j < a.k; ++j) {
    if (ids[j] < 0) continue;
    double x = w[j];
    if (a.norm == RouteNorm::sum) x /= std::max(sum + a.norm_eps, a.norm_min);
    if (a.norm == RouteNorm::softmax) x = std::exp(x - top) / exp_sum;
    w[j] = static_cast<float>(x * a.scale);
  }
}

namespace {

/// Tokens that are not padding; the others take no expert. `result` is w, the next one ids.
int64_t valid_rows(OpCall& call, int64_t tokens, size_t result) {
  const int64_t valid = call.valid_tokens < 0 ? tokens : std::min(call.valid_tokens, tokens);
  const int64_t k = call.out(result).last();
  std::fill(call.out(result).f.begin() + valid * k, call.out(result).f.end(), 0.0f);
  std::fill(call.out(result + 1).i.begin() + valid * k, call.out(result + 1).i.end(), -1);
  return valid;
}

}  // namespace

void eval_topk_gate(OpCall& call) {
  TopkGateAttrs a = call.attrs<TopkGateAttrs>();
  const TopkGateAttrs whole = a;
  if (whole.depends_on_batch()) a.norm = RouteNorm::none, a.scale = 1;
  const Tensor& logits = call.in(0);
  const float* bias = call.find(1) != nullptr ? call.in(1).row(0) : nullptr;
  const int64_t tokens = valid_rows(call, logits.size(0), 0);
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t* forced = call.find(2) != nullptr ? call.in(2).i.data() + t * a.k : nullptr;
    route_row(a, logits.row(t), logits.last(), bias, forced, call.out(0).row(t),
              call.out(1).i.data() + t * a.k);
  }
  if (whole.depends_on_batch()) {
    const int32_t* forced = call.find(2) != nullptr ? call.in(2).i.data() : nullptr;
    drop_routes(whole, tokens, logits.last(), logits.row(0), forced, call.out(0).row(0),
                call.out(1).i.data());
  }
}

/// The norm reads the sum, and the router the normed row, before they are rounded.
void eval_norm_gate(OpCall& call) {
  const auto& a = call.attrs<NormGateAttrs>();
  const Tensor& x = call.in(0);
  const Tensor& router = call.in(3);
  const int64_t hidden = x.last(), experts = router.size(0);
  const float* bias = call.find(5) != nullptr ? call.in(5).row(0) : nullptr;
  const int64_t tokens = valid_rows(call, x.size(0), 3);
  for (int64_t t = 0; t < x.size(0); ++t) {
    float* sum = call.out(0).row(t);
    float* normed = call.out(1).row(t);
    float* logits = call.out(2).row(t);
    for (int64_t c = 0; c < hidden; ++c)
      sum[c] = x.row(t)[c] + (call.find(1) ? call.in(1).row(t)[c] : 0.0f);
    rms_norm_row(sum, call.in(2).row(0), hidden, a.eps, a.plus_one, normed);
    for (int64_t e = 0; e < experts; ++e) {
      const float router_bias = call.find(4) != nullptr ? call.in(4).f[e] : 0.0f;
      logits[e] = static_cast<float>(dot(normed, router.row(e), hidden) + router_bias);
    }
    if (t >= tokens) continue;
    const int32_t* forced = call.find(6) != nullptr ? call.in(6).i.data() + t * a.k : nullptr;
    route_row(a, logits, experts, bias, forced, call.out(3).row(t), call.out(4).i.data() + t * a.k);
  }
}

/// Routes of an expert stay in ascending order; dropped ones (id -1) are in no group.
void eval_route_sort(OpCall& call) {
  const auto experts = static_cast<int32_t>(call.attrs<RouteSortAttrs>().experts);
  const auto& ids = call.in(0).i;
  for (int32_t id : ids) {
    if (id >= experts) user_error("expert id {} is outside [0, {})", id, experts);
  }
  int32_t at = 0;
  for (int32_t e = 0; e < experts; ++e) {
    call.out(0).i[e] = at;
    for (size_t r = 0; r < ids.size(); ++r) {
      if (ids[r] == e) call.out(1).i[at++] = static_cast<int32_t>(r);
    }
  }
  call.out(0).i[experts] = at;
}

/// Dropped routes (id -1) add nothing.
void eval_combine_routes(OpCall& call) {
  const Tensor& y = call.in(0);
  const Tensor& w = call.in(1);
  const Tensor& ids = call.in(2);
  const Tensor* residual = call.find(3);
  const int64_t k = ids.last(), hidden = y.last();
  std::vector<double> sum(static_cast<size_t>(hidden));
  for (int64_t t = 0; t < ids.size(0); ++t) {
    for (int64_t c = 0; c < hidden; ++c) sum[c] = residual != nullptr ? residual->row(t)[c] : 0.0f;
    for (int64_t r = t * k; r < (t + 1) * k; ++r) {
      if (ids.i[r] < 0) continue;
      for (int64_t c = 0; c < hidden; ++c) sum[c] += static_cast<double>(w.f[r]) * y.row(r)[c];
    }
    std::copy(sum.begin(), sum.end(), call.out().row(t));
  }
}

}  // namespace shunt::ir
