// rms_norm, layer_norm and add_norm against double-precision loops.
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

std::vector<double> normed(const float* x, int64_t n, const TestWeight& w, const TestWeight* bias,
                           bool layer, double eps, bool plus_one) {
  double mean = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) mean += layer ? x[i] / static_cast<double>(n) : 0.0;
  for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) {
    out.push_back((x[i] - mean) * scale * (w[i] + (plus_one ? 1.0 : 0.0)) +
                  (bias != nullptr ? (*bias)[i] : 0.0));
  }
  return out;
}

TEST(HostNorm, AllKinds) {
  for (int round = 0; round < 90; ++round) {
    const int64_t rows = pick(0, 30), n = pick(1, 300);
    const bool plus_one = pick(0, 1) == 1, with_bias = pick(0, 1) == 1;
    const int kind = round % 3;  // rms_norm, layer_norm, add_norm
    const bool layer = kind == 1 || (kind == 2 && pick(0, 1) == 1);
    const std::vector<float> x = random_floats(rows * n), y = random_floats(rows * n);
    TestWeight w = TestWeight::random(n, pick_dtype()), b = TestWeight::random(n, pick_dtype());
    const bool biased = layer && with_bias;
    std::vector<float> sum = x, out = poisoned(rows * n);
    Call call;
    call.p(x);
    if (kind == 2) {
      std::fill(sum.begin(), sum.end(), NAN);
      call.p(y);
    }
    call.w(w);
    if (kind != 0 && biased) call.w(b);
    if (kind != 0 && !biased) call.no_weight();
    call.i(rows).i(n);
    if (kind == 2) call.i(static_cast<int64_t>(layer ? HostNorm::layer : HostNorm::rms));
    call.f(1e-5).i(plus_one);
    if (kind == 2) call.p(sum);
    call.p(out).run(kind == 0 ? "rms_norm" : kind == 1 ? "layer_norm" : "add_norm", pool());
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<float> row(x.begin() + r * n, x.begin() + (r + 1) * n);
      for (int64_t i = 0; kind == 2 && i < n; ++i) {
        row[static_cast<size_t>(i)] += y[static_cast<size_t>(r * n + i)];
        ASSERT_EQ(sum[static_cast<size_t>(r * n + i)], row[static_cast<size_t>(i)]);
      }
      const auto want = normed(row.data(), n, w, biased ? &b : nullptr, layer, 1e-5, plus_one);
      for (int64_t i = 0; i < n; ++i) {
        expect_near(out[static_cast<size_t>(r * n + i)], want[static_cast<size_t>(i)], 1e-5,
                    "norm");
      }
    }
  }
}

}  // namespace
}  // namespace shunt
