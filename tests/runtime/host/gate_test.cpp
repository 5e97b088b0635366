// topk_gate and norm_gate against plain double-precision definitions.
#include <algorithm>
#include <numeric>

#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

struct Router {
  int64_t experts, k, groups = 1, keep_groups = 1;
  HostScore score = HostScore::softmax;
  HostRouteNorm norm = HostRouteNorm::none;
  HostGroupScore group_score = HostGroupScore::max;
  double norm_eps = 0, norm_min = 0, scale = 1, jitter = 0;
};

struct Routes {
  std::vector<double> w;
  std::vector<int32_t> ids;
};

Routes expected(const Router& r, const std::vector<double>& logits, const TestWeight* bias,
                const int32_t* forced) {
  const auto n = static_cast<size_t>(r.experts);
  std::vector<double> score(n), choose(n);
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (double x : logits) total += std::exp(x - top);
  for (size_t e = 0; e < n; ++e) {
    const double x = logits[e];
    score[e] = r.score == HostScore::softmax    ? std::exp(x - top) / total
               : r.score == HostScore::sigmoid  ? 1 / (1 + std::exp(-x))
               : r.score == HostScore::identity ? x
                                                : std::sqrt(std::log1p(std::exp(x)));
    choose[e] = score[e] + (bias != nullptr ? (*bias)[static_cast<int64_t>(e)] : 0.0);
  }
  const size_t size = n / static_cast<size_t>(r.groups);
  std::vector<std::pair<double, size_t>>
      groups;  // minus score, group: sorts best first, then lowest
  for (size_t g = 0; g < static_cast<size_t>(r.groups); ++g) {
    std::vector<double> in(choose.begin() + static_cast<long>(g * size),
                           choose.begin() + static_cast<long>((g + 1) * size));
    std::sort(in.rbegin(), in.rend());
    groups.emplace_back(-(r.group_score == HostGroupScore::max ? in[0] : in[0] + in[1]), g);
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::pair<double, int32_t>> order;
  for (size_t g = 0; g < static_cast<size_t>(r.keep_groups); ++g) {
    for (size_t e = groups[g].second * size; e < (groups[g].second + 1) * size; ++e) {
      order.emplace_back(-choose[e], static_cast<int32_t>(e));
    }
  }
  std::sort(order.begin(), order.end());
  Routes out;
  for (int64_t j = 0; j < r.k; ++j) {
    out.ids.push_back(forced != nullptr && forced[0] >= 0 ? forced[j]
                                                          : order[static_cast<size_t>(j)].second);
  }
  double sum = r.norm == HostRouteNorm::sum ? r.norm_eps : 0.0;
  for (int32_t e : out.ids) {
    const auto at = static_cast<size_t>(std::max(e, 0));
    out.w.push_back(e < 0                              ? 0.0
                    : r.norm == HostRouteNorm::softmax ? std::exp(logits[at])
                                                       : score[at]);
    sum += out.w.back();
  }
  sum = std::max(sum, r.norm_min);
  for (double& w : out.w) w = (r.norm == HostRouteNorm::none ? w : w / sum) * r.scale;
  return out;
}

/// The sparse mixer, straight from its definition.
Routes expected_mix(const Router& r, std::vector<double> logits, const int32_t* forced) {
  Routes out;
  std::vector<bool> taken(logits.size(), false);
  for (int64_t j = 0; j < r.k; ++j) {
    size_t best = logits.size();
    for (size_t e = 0; e < logits.size(); ++e) {
      if (!taken[e] && (best == logits.size() || logits[e] > logits[best])) best = e;
    }
    double sum = 0;
    const auto counts = [&](size_t e) {
      return !taken[e] &&
             (logits[best] - logits[e]) / std::max(std::abs(logits[e]), logits[best]) <= r.jitter;
    };
    for (size_t e = 0; e < logits.size(); ++e) {
      if (counts(e)) sum += std::exp(logits[e] - logits[best]);
    }
    const size_t id = forced != nullptr && forced[0] >= 0 ? static_cast<size_t>(forced[j]) : best;
    out.ids.push_back(static_cast<int32_t>(id));
    out.w.push_back(counts(id) ? std::exp(logits[id] - logits[best]) / sum * r.scale : 0.0);
    taken[id] = true;
  }
  return out;
}

Router random_router() {
  Router r;
  r.groups = pick(0, 1) == 1 ? 1 : pick(2, 4);
  r.experts = r.groups * pick(2, 9);
  r.keep_groups = pick(1, r.groups);
  r.k = pick(1, std::min<int64_t>(6, r.keep_groups * r.experts / r.groups));
  r.score = static_cast<HostScore>(pick(0, 3));
  r.norm = r.score == HostScore::identity ? static_cast<HostRouteNorm>(2 * pick(0, 1))
                                          : static_cast<HostRouteNorm>(pick(0, 1));
  r.group_score = static_cast<HostGroupScore>(pick(0, 1));
  r.norm_eps = pick(0, 1) == 1 ? 1e-6 : 0;
  r.norm_min = r.norm == HostRouteNorm::sum && pick(0, 1) == 1 ? 0.5 : 0;
  r.scale = pick(0, 1) == 1 ? 2.5 : 1.0;
  return r;
}

Call& gate_args(Call& call, const Router& r, TestWeight* bias, const std::vector<int32_t>* forced,
                int64_t tokens, std::vector<float>& w, std::vector<int32_t>& ids,
                std::vector<int64_t>& counts) {
  if (bias != nullptr) {
    call.w(*bias);
  } else {
    call.no_weight();
  }
  call.p(forced != nullptr ? forced->data() : nullptr)
      .i(tokens)
      .none()
      .i(r.experts)
      .i(r.k)
      .i(static_cast<int64_t>(r.score))
      .i(static_cast<int64_t>(r.norm))
      .f(r.norm_eps)
      .f(r.norm_min)
      .f(r.scale)
      .f(r.jitter)
      .i(r.groups)
      .i(r.keep_groups)
      .i(static_cast<int64_t>(r.group_score))
      .p(w)
      .p(ids)
      .p(counts);
  return call;
}

/// Counters that stood at 5 before.
std::vector<int64_t> fresh_counts(const Router& r) {
  return std::vector<int64_t>(static_cast<size_t>(r.experts), 5);
}

void check_counts(const std::vector<int64_t>& counts, const std::vector<int32_t>& ids) {
  std::vector<int64_t> want(counts.size(), 5);
  for (const int32_t id : ids) {
    if (id >= 0) ++want[static_cast<size_t>(id)];
  }
  EXPECT_EQ(counts, want);
}

std::vector<int32_t> random_forced(const Router& r, int64_t tokens) {
  std::vector<int32_t> forced(static_cast<size_t>(tokens * r.k), -1);
  for (int64_t t = 0; t < tokens; t += 2) {
    for (int64_t j = 0; j < r.k; ++j) {
      const bool dropped = j > 0 && j == t % 5;
      forced[static_cast<size_t>(t * r.k + j)] =
          dropped ? -1 : static_cast<int32_t>((t + j) % r.experts);
    }
  }
  return forced;
}

void check(const Router& r, int64_t t, const std::vector<double>& logits, const TestWeight* bias,
           const std::vector<int32_t>* forced, const std::vector<float>& w,
           const std::vector<int32_t>& ids) {
  const Routes want =
      expected(r, logits, bias, forced == nullptr ? nullptr : forced->data() + t * r.k);
  for (int64_t j = 0; j < r.k; ++j) {
    ASSERT_EQ(ids[static_cast<size_t>(t * r.k + j)], want.ids[static_cast<size_t>(j)])
        << "token " << t;
    expect_near(w[static_cast<size_t>(t * r.k + j)], want.w[static_cast<size_t>(j)], 2e-5,
                "route weight");
  }
}

TEST(HostTopkGate, AllRouters) {
  for (int round = 0; round < 300; ++round) {
    const Router r = random_router();
    const int64_t tokens = pick(0, 12);
    const std::vector<float> logits = random_floats(tokens * r.experts, 2.0f);
    TestWeight bias = TestWeight::random(r.experts, pick_dtype(), 0.3f);
    const std::vector<int32_t> forced = random_forced(r, tokens);
    TestWeight* b = pick(0, 1) == 1 ? &bias : nullptr;
    const auto* f = pick(0, 1) == 1 ? &forced : nullptr;
    std::vector<float> w = poisoned(tokens * r.k);
    std::vector<int32_t> ids(static_cast<size_t>(tokens * r.k), -7);
    std::vector<int64_t> counts = fresh_counts(r);
    Call call;
    gate_args(call.p(logits), r, b, f, tokens, w, ids, counts)
        .i(0)
        .f(0)
        .i(0)
        .i(0)
        .i(0)  // no capacity
        .run("topk_gate", pool());
    check_counts(counts, ids);
    for (int64_t t = 0; t < tokens; ++t) {
      const std::vector<double> row(logits.begin() + t * r.experts,
                                    logits.begin() + (t + 1) * r.experts);
      check(r, t, row, b, f, w, ids);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(HostTopkGate, SparseMixer) {
  for (int round = 0; round < 100; ++round) {
    Router r{pick(4, 20), pick(1, 3), 1, 1, HostScore::sparse_mixer};
    r.jitter = 0.1 * static_cast<double>(pick(0, 10));
    const int64_t tokens = 5;
    const std::vector<float> logits = random_floats(tokens * r.experts, 2.0f);
    std::vector<int32_t> forced(static_cast<size_t>(tokens * r.k), -1);
    for (int64_t j = 0; j < r.k; ++j) forced[static_cast<size_t>(j)] = static_cast<int32_t>(j + 1);
    std::vector<float> w = poisoned(tokens * r.k);
    std::vector<int32_t> ids(static_cast<size_t>(tokens * r.k), -7);
    std::vector<int64_t> counts = fresh_counts(r);
    Call call;
    gate_args(call.p(logits), r, nullptr, &forced, tokens, w, ids, counts)
        .i(0)
        .f(0)
        .i(0)
        .i(0)
        .i(0)  // no capacity
        .run("topk_gate", pool());
    check_counts(counts, ids);
    for (int64_t t = 0; t < tokens; ++t) {
      const Routes want =
          expected_mix(r, {logits.begin() + t * r.experts, logits.begin() + (t + 1) * r.experts},
                       forced.data() + t * r.k);
      for (int64_t j = 0; j < r.k; ++j) {
        const auto at = static_cast<size_t>(t * r.k + j);
        ASSERT_EQ(ids[at], want.ids[static_cast<size_t>(j)]);
        expect_near(w[at], want.w[static_cast<size_t>(j)], 1e-5, "weight");
      }
    }
  }
}

TEST(HostTopkGate, TiesGoToTheLowestExpert) {
  Router r{6, 3};
  const std::vector<float> logits = {1, 2, 2, 1, 2, 2};
  std::vector<float> w = poisoned(3);
  std::vector<int32_t> ids(3, -7);
  std::vector<int64_t> counts = fresh_counts(r);
  Call call;
  gate_args(call.p(logits), r, nullptr, nullptr, 1, w, ids, counts)
      .i(0)
      .f(0)
      .i(0)
      .i(0)
      .i(0)  // no capacity
      .run("topk_gate", pool());
  check_counts(counts, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 2, 4}));
}

TEST(HostTopkGate, LargeLogitsOverflowNothing) {
  Router r{4, 2, 1, 1, HostScore::softmax, HostRouteNorm::sum};
  const std::vector<float> logits = {1e4f, -1e4f, 1e4f, 0};
  std::vector<float> w = poisoned(2);
  std::vector<int32_t> ids(2, -7);
  std::vector<int64_t> counts = fresh_counts(r);
  Call call;
  gate_args(call.p(logits), r, nullptr, nullptr, 1, w, ids, counts)
      .i(0)
      .f(0)
      .i(0)
      .i(0)
      .i(0)  // no capacity
      .run("topk_gate", pool());
  check_counts(counts, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 2}));
  EXPECT_FLOAT_EQ(w[0], 0.5f);
}

TEST(HostNormGate, SumNormLogitsAndRoutes) {
  for (int round = 0; round < 80; ++round) {
    const Router r = random_router();
    const int64_t tokens = pick(0, 20), h = pick(1, 90);
    const bool residual = pick(0, 1) == 1, biased = pick(0, 1) == 1, plus_one = pick(0, 1) == 1;
    const std::vector<float> x = random_floats(tokens * h), y = random_floats(tokens * h);
    TestWeight norm = TestWeight::random(h, pick_dtype());
    // Small logits: where float32 scores saturate, ties would not be those of the definition.
    TestWeight router = TestWeight::random(r.experts * h, pick_dtype(), 0.1f);
    TestWeight router_bias = TestWeight::random(r.experts, pick_dtype());
    std::vector<float> sum = poisoned(tokens * h), normed = sum,
                       logits = poisoned(tokens * r.experts);
    std::vector<float> w = poisoned(tokens * r.k);
    std::vector<int32_t> ids(static_cast<size_t>(tokens * r.k), -7);
    const std::vector<int32_t> forced = random_forced(r, tokens);
    std::vector<int64_t> counts = fresh_counts(r);
    Call call;
    call.p(x).p(residual ? y.data() : nullptr).w(norm).w(router);
    if (biased) {
      call.w(router_bias);
    } else {
      call.no_weight();
    }
    call.i(tokens).i(h).f(1e-6).i(plus_one).p(sum).p(normed).p(logits);
    gate_args(call, r, nullptr, &forced, tokens, w, ids, counts).run("norm_gate", pool());
    check_counts(counts, ids);
    for (int64_t t = 0; t < tokens; ++t) {
      double squares = 0;
      for (int64_t i = t * h; i < (t + 1) * h; ++i) {
        const auto at = static_cast<size_t>(i);
        ASSERT_EQ(sum[at], residual ? x[at] + y[at] : x[at]);
        squares += static_cast<double>(sum[at]) * sum[at];
      }
      const double scale = 1 / std::sqrt(squares / static_cast<double>(h) + 1e-6);
      for (int64_t i = 0; i < h; ++i) {
        const auto at = static_cast<size_t>(t * h + i);
        expect_near(normed[at], sum[at] * scale * (norm[i] + (plus_one ? 1.0 : 0.0)), 1e-5,
                    "normed");
      }
      std::vector<double> row;
      for (int64_t e = 0; e < r.experts; ++e) {
        double want = biased ? router_bias[e] : 0.0;
        for (int64_t i = 0; i < h; ++i)
          want += static_cast<double>(normed[static_cast<size_t>(t * h + i)]) * router[e * h + i];
        expect_near(logits[static_cast<size_t>(t * r.experts + e)], want, 1e-4, "logits");
        row.push_back(logits[static_cast<size_t>(t * r.experts + e)]);
      }
      check(r, t, row, nullptr, &forced, w, ids);
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace shunt
