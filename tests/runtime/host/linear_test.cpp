// linear, routed_linear, route_sort and grouped_linear against double-precision loops: all sizes of
// tiles and tails, one-sided and dropped routes.
#include <fmt/core.h>

#include <functional>

#include "ir/expr.h"
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

double dot(const float* x, const TestWeight& w, int64_t row, int64_t k) {
  double sum = 0;
  for (int64_t c = 0; c < k; ++c) sum += static_cast<double>(x[c]) * w[row * k + c];
  return sum;
}

struct Epilogue {
  const char* text;
  bool glu;
  int extras;
  std::function<double(double acc, double up, const std::vector<double>& x)> want;
};

const std::vector<Epilogue>& epilogues() {
  using X = const std::vector<double>&;
  static const std::vector<Epilogue> all = {
      {"", false, 0, [](double a, double, X) { return a; }},
      {"acc + x0", false, 1, [](double a, double, X x) { return a + x[0]; }},
      {"relu(acc + x0) * 2 - x1", false, 2,
       [](double a, double, X x) { return std::max(a + x[0], 0.0) * 2 - x[1]; }},
      {"silu(gate) * up", true, 0,
       [](double g, double u, X) { return g / (1 + std::exp(-g)) * u; }},
      {"relu(gate) * (up + x0)", true, 1,
       [](double g, double u, X x) { return std::max(g, 0.0) * (u + x[0]); }},
  };
  return all;
}

double tolerance(int64_t k) { return 1e-5 * std::sqrt(static_cast<double>(k)); }

void check_linear(int64_t m, int64_t columns, int64_t k, const Epilogue& e, DType dtype,
                  ThreadPool& threads) {
  const int64_t n = e.glu ? 2 * columns : columns;
  const std::vector<float> x = random_floats(m * k);
  TestWeight w = TestWeight::random(n * k, dtype, 0.3f);
  const HostExpr expr = HostExpr::compile(e.glu || e.text[0] != 0 ? e.text : "acc");
  std::vector<float> out = poisoned(m * columns);
  std::vector<TestWeight> extras;
  std::vector<bool> full;
  Call call;
  call.p(x).w(w).i(m).i(n).i(k).i(e.glu).e(e.text[0] == 0 ? nullptr : &expr).p(out).i(e.extras);
  for (int i = 0; i < e.extras; ++i) {
    full.push_back(pick(0, 1) == 1);
    extras.push_back(TestWeight::random(full.back() ? m * columns : columns,
                                        full.back() ? DType::f32 : pick_dtype()));
  }
  for (size_t i = 0; i < extras.size(); ++i) {
    call.w(extras[i]).i(
        static_cast<int64_t>(full[i] ? HostOperandMode::full : HostOperandMode::vector));
  }
  call.run("linear", threads);
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      std::vector<double> values;
      for (size_t i = 0; i < extras.size(); ++i)
        values.push_back(extras[i][full[i] ? r * columns + j : j]);
      const double acc = dot(x.data() + r * k, w, j, k);
      const double up = e.glu ? dot(x.data() + r * k, w, columns + j, k) : 0;
      expect_near(out[static_cast<size_t>(r * columns + j)], e.want(acc, up, values),
                  2 * tolerance(k),
                  fmt::format("{} m={} n={} k={} [{}, {}]", e.text, m, columns, k, r, j));
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(HostLinear, AllShapes) {
  for (int round = 0; round < 150; ++round) {
    const int64_t m = pick(0, 4) == 0 ? pick(0, 1) : pick(2, 60);
    check_linear(m, pick(1, 90), pick(1, 90),
                 epilogues()[static_cast<size_t>(round) % epilogues().size()], pick_dtype(),
                 pool());
    if (HasFatalFailure()) return;
  }
}

TEST(HostLinear, ManyBlocksInEveryDirection) {
  for (size_t e = 0; e < epilogues().size(); ++e) {
    check_linear(523, 217, 300, epilogues()[e], DType::bf16, pool());
    check_linear(3, 700, 300, epilogues()[e], DType::bf16, pool());
  }
}

TEST(HostLinear, SameBitsOnAnyNumberOfThreads) {
  for (int64_t m : {1, 5, 300}) {
    const int64_t n = 200, k = 333;
    const std::vector<float> x = random_floats(m * k);
    TestWeight w = TestWeight::random(n * k, DType::bf16);
    std::vector<float> first;
    for (int threads : {1, 2, 4}) {
      ThreadPool p(threads);
      std::vector<float> out = poisoned(m * n);
      Call().p(x).w(w).i(m).i(n).i(k).i(0).e(nullptr).p(out).i(0).run("linear", p);
      if (threads == 1) first = out;
      EXPECT_EQ(out, first);
    }
  }
}

/// Ids of m routes: uniform, all to one expert, or with dropped ones.
std::vector<int32_t> random_ids(int64_t m, int64_t experts, int64_t kind) {
  std::vector<int32_t> ids(static_cast<size_t>(m));
  const auto favourite = static_cast<int32_t>(pick(0, experts - 1));
  for (int32_t& id : ids) {
    id = kind == 1 ? favourite : static_cast<int32_t>(pick(kind == 2 ? -1 : 0, experts - 1));
  }
  return ids;
}

struct Experts {
  int64_t tokens, k_routes, experts, columns, depth;
  const Epilogue& e;
  std::vector<int32_t> ids;
  TestWeight w;
  std::vector<TestWeight> extras;  // [experts, columns]

  Experts(int64_t tokens, int64_t kind, const Epilogue& e)
      : tokens(tokens),
        k_routes(pick(1, 4)),
        experts(pick(1, 9)),
        columns(pick(1, 70)),
        depth(pick(1, 70)),
        e(e),
        ids(random_ids(tokens * k_routes, experts, kind)),
        w(TestWeight::random(experts * n() * depth, pick_dtype(), 0.3f)) {
    for (int i = 0; i < e.extras; ++i)
      extras.push_back(TestWeight::random(experts * columns, pick_dtype()));
  }
  int64_t n() const { return e.glu ? 2 * columns : columns; }
  int64_t routes() const { return tokens * k_routes; }
  void add_extras(Call& call) {
    call.i(e.extras);
    for (TestWeight& x : extras) call.w(x).i(static_cast<int64_t>(HostOperandMode::per_expert));
  }
  double want(const float* x, int64_t expert, int64_t j) const {
    std::vector<double> values;
    for (const TestWeight& extra : extras) values.push_back(extra[expert * columns + j]);
    return e.want(dot(x, w, expert * n() + j, depth),
                  e.glu ? dot(x, w, expert * n() + columns + j, depth) : 0, values);
  }
};

/// out[to(r)] against expert(r) on x row in(r); expert -1: zero.
void check_rows(const Experts& x, const std::vector<float>& in, const std::vector<float>& out,
                const std::function<int64_t(int64_t)>& expert,
                const std::function<int64_t(int64_t)>& row,
                const std::function<int64_t(int64_t)>& to) {
  for (int64_t r = 0; r < x.routes(); ++r) {
    for (int64_t j = 0; j < x.columns; ++j) {
      const double want = expert(r) < 0 ? 0.0 : x.want(in.data() + row(r) * x.depth, expert(r), j);
      expect_near(out[static_cast<size_t>(to(r) * x.columns + j)], want, 2 * tolerance(x.depth),
                  fmt::format("{} route {} column {}", x.e.text, r, j));
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(HostRoutedLinear, AllRoutings) {
  for (int round = 0; round < 120; ++round) {
    const int64_t tokens = round % 5 == 0 ? pick(0, 1) : pick(1, 80);
    Experts x(tokens, round % 3, epilogues()[static_cast<size_t>(round) % epilogues().size()]);
    const HostExpr expr = HostExpr::compile(x.e.text[0] == 0 ? "acc" : x.e.text);
    const bool shared = pick(0, 1) == 1;  // one row of x a token
    const int64_t divide = shared ? x.k_routes : 1;
    const std::vector<float> in = random_floats(x.routes() / divide * x.depth);
    std::vector<float> out = poisoned(x.routes() * x.columns);
    Call call;
    call.p(in)
        .w(x.w)
        .p(x.ids)
        .i(x.routes())
        .i(divide)
        .i(x.experts)
        .i(x.n())
        .i(x.depth)
        .i(x.e.glu)
        .e(x.e.text[0] == 0 ? nullptr : &expr)
        .p(out);
    x.add_extras(call);
    ThreadPool fresh(2);  // its scratch grows within the call
    call.run("routed_linear", round % 3 == 0 ? fresh : pool());
    check_rows(
        x, in, out, [&](int64_t r) { return x.ids[static_cast<size_t>(r)]; },
        [&](int64_t r) { return r / divide; }, [](int64_t r) { return r; });
    if (HasFatalFailure()) return;
  }
}

TEST(HostRouteSort, StableWithDroppedRoutesLast) {
  const std::vector<int32_t> ids = {2, 0, -1, 2, 1, -1, 0, 2};
  std::vector<int32_t> offsets(5, -7), rows(8, -7);
  Call().p(ids).i(8).i(4).p(offsets).p(rows).run("route_sort", pool());
  EXPECT_EQ(offsets, (std::vector<int32_t>{0, 2, 3, 6, 6}));
  EXPECT_EQ(rows, (std::vector<int32_t>{1, 6, 4, 0, 3, 7, 2, 5}));
}

TEST(HostGroupedLinear, GatherAndScatter) {
  for (int round = 0; round < 160; ++round) {
    const int64_t tokens = round % 5 == 0 ? pick(0, 1) : pick(1, 80);
    Experts x(tokens, round % 3, epilogues()[static_cast<size_t>(round) % epilogues().size()]);
    const HostExpr expr = HostExpr::compile(x.e.text[0] == 0 ? "acc" : x.e.text);
    const bool gather = pick(0, 1) == 1, scatter = pick(0, 1) == 1;
    std::vector<int32_t> offsets(static_cast<size_t>(x.experts + 1)), rows(x.ids.size());
    Call().p(x.ids).i(x.routes()).i(x.experts).p(offsets).p(rows).run("route_sort", pool());
    const std::vector<float> in = random_floats((gather ? x.tokens : x.routes()) * x.depth);
    std::vector<float> out = poisoned(x.routes() * x.columns);
    Call call;
    call.p(in)
        .w(x.w)
        .p(offsets)
        .p(rows)
        .i(x.routes())
        .i(gather ? x.k_routes : 0)
        .i(scatter)
        .i(x.experts)
        .i(x.n())
        .i(x.depth)
        .i(x.e.glu)
        .e(x.e.text[0] == 0 ? nullptr : &expr)
        .p(out);
    x.add_extras(call);
    call.run("grouped_linear", pool());
    const auto route = [&](int64_t r) { return rows[static_cast<size_t>(r)]; };
    check_rows(
        x, in, out, [&](int64_t r) { return x.ids[static_cast<size_t>(route(r))]; },
        [&](int64_t r) { return gather ? route(r) / x.k_routes : r; },
        [&](int64_t r) { return scatter ? route(r) : r; });
    if (HasFatalFailure()) return;
  }
}

TEST(HostRoutedLinear, UnknownExpertIsAnError) {
  const std::vector<int32_t> ids = {0, 3};
  const std::vector<float> x = random_floats(2), w = random_floats(3);
  std::vector<float> out(2);
  ThreadPool one(1);
  Call call;
  call.p(x).p(w).i(0).p(ids).i(2).i(1).i(3).i(1).i(1).i(0).e(nullptr).p(out).i(0);
  EXPECT_THROW(host::routed_linear(call.slots, one), std::exception);
}

}  // namespace
}  // namespace shunt
