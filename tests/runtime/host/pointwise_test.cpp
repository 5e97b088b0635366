// pointwise and glu against loops, with every shape of operand.
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

TEST(HostPointwise, Broadcasts) {
  const HostExpr expr = HostExpr::compile("x0 * x1 + x2 - x3");
  for (int round = 0; round < 60; ++round) {
    const int64_t rows = pick(0, 40), n = pick(1, 700);
    const std::vector<float> x0 = random_floats(rows * n), x1 = random_floats(rows);
    TestWeight x2 = TestWeight::random(n, pick_dtype());
    const std::vector<float> x3 = random_floats(rows * n);
    std::vector<float> out = poisoned(rows * n);
    const auto mode = [](HostOperandMode m) { return static_cast<int64_t>(m); };
    Call()
        .e(&expr)
        .i(rows)
        .i(n)
        .p(out)
        .i(4)
        .p(x0)
        .i(0)
        .i(mode(HostOperandMode::full))
        .p(x1)
        .i(0)
        .i(mode(HostOperandMode::column))
        .w(x2)
        .i(mode(HostOperandMode::vector))
        .p(x3)
        .i(0)
        .i(mode(HostOperandMode::full))
        .run("pointwise", pool());
    for (int64_t i = 0; i < rows * n; ++i) {
      const auto at = static_cast<size_t>(i);
      expect_near(out[at],
                  static_cast<double>(x0[at]) * x1[static_cast<size_t>(i / n)] + x2[i % n] - x3[at],
                  1e-6, "pointwise");
    }
  }
}

TEST(HostPointwise, OneLongRowWhenShapesAgree) {
  const HostExpr expr = HostExpr::compile("silu(x0) * x1");
  for (int64_t rows : {0, 1, 3, 301}) {
    const int64_t n = 129;
    const std::vector<float> x = random_floats(rows * n), y = random_floats(rows * n);
    std::vector<float> out = poisoned(rows * n);
    const auto full = static_cast<int64_t>(HostOperandMode::full);
    Call().e(&expr).i(rows).i(n).p(out).i(2).p(x).i(0).i(full).p(y).i(0).i(full).run("pointwise",
                                                                                     pool());
    for (size_t i = 0; i < out.size(); ++i) {
      expect_near(out[i], x[i] / (1 + std::exp(-static_cast<double>(x[i]))) * y[i], 1e-6, "silu");
    }
  }
}

TEST(HostGlu, GateAndUpAreHalvesOfARow) {
  for (const char* text : {"silu(gate) * up", "relu(gate) * (up + 1)"}) {
    const HostExpr expr = HostExpr::compile(text);
    for (int64_t rows : {0, 1, 9}) {
      const int64_t n = 300;
      const std::vector<float> x = random_floats(rows * 2 * n);
      std::vector<float> out = poisoned(rows * n);
      Call().e(&expr).p(x).i(rows).i(n).p(out).run("glu", pool());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = 0; j < n; ++j) {
          const double g = x[static_cast<size_t>(r * 2 * n + j)],
                       u = x[static_cast<size_t>(r * 2 * n + n + j)];
          const double want =
              text[0] == 's' ? g / (1 + std::exp(-g)) * u : std::max(g, 0.0) * (u + 1);
          expect_near(out[static_cast<size_t>(r * n + j)], want, 1e-6, text);
        }
      }
    }
  }
}

}  // namespace
}  // namespace shunt
