// Every instruction set this machine runs, against plain loops: values, tails, and nothing beyond
// the end.
#include "runtime/host/simd.h"

#include <functional>

#include "ir/expr.h"
#include "tests/runtime/host/host_test.h"

namespace shunt::host {
namespace {

using namespace host_test;

class SimdTest : public testing::TestWithParam<const Simd*> {
 protected:
  const Simd& v = *GetParam();
};

TEST_P(SimdTest, UnaryMatchesTheDefinition) {
  const Expr::Code codes[] = {Expr::Code::neg,       Expr::Code::silu,       Expr::Code::gelu,
                              Expr::Code::gelu_tanh, Expr::Code::quick_gelu, Expr::Code::relu,
                              Expr::Code::sigmoid,   Expr::Code::softplus,   Expr::Code::tanh,
                              Expr::Code::exp,       Expr::Code::sqrt,       Expr::Code::rsqrt,
                              Expr::Code::abs};
  std::vector<float> x;
  for (float s = 1e-6f; s < 200.0f; s *= 1.07f) {
    x.push_back(s);
    x.push_back(-s);
  }
  x.push_back(0.0f);
  std::vector<float> out(x.size());
  for (int f = 0; f < static_cast<int>(Unary::count); ++f) {
    v.unary[f](out.data(), x.data(), static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      const float want = apply_unary(codes[f], x[i]);
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(out[i])) << f << " of " << x[i];
      } else if (std::isinf(want)) {
        EXPECT_EQ(out[i], want) << f << " of " << x[i];
      } else {
        // gelu_tanh loses digits by cancellation, in the definition too.
        const double slack = codes[f] == Expr::Code::gelu_tanh ? 1e-7 * std::fabs(x[i]) : 1e-37;
        EXPECT_NEAR(out[i], want, 1e-6 * std::fabs(want) + slack) << f << " of " << x[i];
      }
    }
  }
}

TEST_P(SimdTest, ExpKeepsSpecialValues) {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x = {inf, -inf, NAN, 0.0f, 88.7f, -100.0f, 89.5f, -87.5f};
  std::vector<float> out(x.size());
  v.unary[static_cast<int>(Unary::exp)](out.data(), x.data(), static_cast<int64_t>(x.size()));
  EXPECT_EQ(out[0], inf);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_TRUE(std::isnan(out[2]));
  EXPECT_EQ(out[3], 1.0f);
  EXPECT_NEAR(out[4], std::exp(88.7f), 1e-6 * std::exp(88.7f));
  EXPECT_NEAR(out[5], std::exp(-100.0f), 2e-45);
  EXPECT_EQ(out[6], inf);
  EXPECT_NEAR(out[7], std::exp(-87.5f), 1e-6 * std::exp(-87.5f));
}

TEST_P(SimdTest, LoopsAndReductionsAtEverySize) {
  for (int64_t n = 0; n < 70; ++n) {
    const std::vector<float> a = random_floats(n), b = random_floats(n);
    std::vector<float> out = poisoned(n);
    const auto check = [&](const char* what, const std::function<double(size_t)>& want) {
      for (size_t i = 0; i < out.size(); ++i) expect_near(out[i], want(i), 1e-6, what);
    };
    v.binary[static_cast<int>(Binary::add)](out.data(), a.data(), b.data(), n);
    check("add", [&](size_t i) { return a[i] + b[i]; });
    v.binary[static_cast<int>(Binary::sub)](out.data(), a.data(), b.data(), n);
    check("sub", [&](size_t i) { return a[i] - b[i]; });
    v.binary[static_cast<int>(Binary::mul)](out.data(), a.data(), b.data(), n);
    check("mul", [&](size_t i) { return a[i] * b[i]; });
    v.binary[static_cast<int>(Binary::div)](out.data(), a.data(), b.data(), n);
    check("div", [&](size_t i) { return a[i] / b[i]; });
    v.binary[static_cast<int>(Binary::min)](out.data(), a.data(), b.data(), n);
    check("min", [&](size_t i) { return std::min(a[i], b[i]); });
    v.binary[static_cast<int>(Binary::max)](out.data(), a.data(), b.data(), n);
    check("max", [&](size_t i) { return std::max(a[i], b[i]); });
    v.silu_mul(out.data(), a.data(), b.data(), n);
    check("silu_mul",
          [&](size_t i) { return a[i] / (1 + std::exp(-static_cast<double>(a[i]))) * b[i]; });
    out = b;
    v.axpy(out.data(), 0.5f, a.data(), n);
    check("axpy", [&](size_t i) { return b[i] + 0.5 * a[i]; });
    v.scale_weight(out.data(), a.data(), 2.0f, b.data(), 1.0f, n);
    check("scale_weight", [&](size_t i) { return a[i] * 2.0 * (b[i] + 1.0); });

    double sum = 0, squares = 0, largest = -INFINITY, exps = 0;
    for (float x : a) {
      sum += x;
      squares += (x - 0.25) * (x - 0.25);
      largest = std::max<double>(largest, x);
      exps += std::exp(x - 3.0);
    }
    expect_near(v.sum(a.data(), n), sum, 1e-5, "sum");
    expect_near(v.sum_squares(a.data(), 0.25f, n), squares, 1e-5, "sum_squares");
    EXPECT_EQ(v.max(a.data(), n), static_cast<float>(largest));
    expect_near(v.exp_sum(out.data(), a.data(), 3.0f, n), exps, 1e-6, "exp_sum");
    check("exp_sum", [&](size_t i) { return std::exp(a[i] - 3.0); });
  }
}

TEST_P(SimdTest, ConvertsEveryHalf) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> out(bits.size());
  for (DType dtype : {DType::bf16, DType::f16}) {
    v.to_f32(out.data(), bits.data(), dtype, static_cast<int64_t>(bits.size()) - 3);
    for (size_t i = 0; i + 3 < bits.size(); ++i) {
      const float want = dtype == DType::bf16 ? f32_from_bf16(bits[i]) : f32_from_f16(bits[i]);
      if (std::isnan(want)) {
        ASSERT_TRUE(std::isnan(out[i])) << i;
      } else {
        ASSERT_EQ(out[i], want) << i;
        ASSERT_EQ(std::signbit(out[i]), std::signbit(want)) << i;
      }
    }
  }
}

TEST_P(SimdTest, Dot) {
  for (int round = 0; round < 200; ++round) {
    const int rows = static_cast<int>(pick(1, v.dot_rows));
    const int64_t n = pick(1, 21), k = pick(1, 70), ldw = k + pick(0, 3);
    TestWeight w = TestWeight::random((n - 1) * ldw + k, pick_dtype());
    std::vector<std::vector<float>> x;
    std::vector<const float*> pointers;
    for (int i = 0; i < rows; ++i) x.push_back(random_floats(k));
    for (auto& row : x) pointers.push_back(row.data());
    std::vector<float> out = poisoned(rows * n);
    v.dot(pointers.data(), rows, w.data(), w.dtype, ldw, n, k, out.data(), n);
    for (int i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double want = 0;
        for (int64_t c = 0; c < k; ++c)
          want += static_cast<double>(x[static_cast<size_t>(i)][static_cast<size_t>(c)]) *
                  w[j * ldw + c];
        expect_near(out[static_cast<size_t>(i * n + j)], want, 3e-6 * std::sqrt(k), "dot");
      }
    }
  }
}

TEST_P(SimdTest, PackAndGemm) {
  for (int round = 0; round < 300; ++round) {
    const int vectors = static_cast<int>(pick(1, v.panel_vectors + 1));
    const int wide = vectors > v.panel_vectors ? 4 : vectors;
    const int64_t width = wide * v.lanes;
    const int64_t n = pick(1, width), m = pick(0, 19), k = pick(1, 50), k0 = pick(0, 5),
                  ldw = k0 + k;
    TestWeight w = TestWeight::random((n - 1) * ldw + ldw, pick_dtype());
    std::vector<float> panel = poisoned(k * width);
    v.pack(panel.data(), width, w.data(), w.dtype, ldw, k0, k, n, width);
    for (int64_t c = 0; c < k; ++c) {
      for (int64_t j = 0; j < width; ++j) {
        ASSERT_EQ(panel[static_cast<size_t>(c * width + j)], j < n ? w[j * ldw + k0 + c] : 0.0f);
      }
    }
    const bool by_columns = pick(0, 1) == 1, accumulate = pick(0, 1) == 1;
    const std::vector<float> a = random_floats(m * k);
    std::vector<float> c = accumulate ? random_floats(m * width) : poisoned(m * width);
    const std::vector<float> before = c;
    v.gemm(a.data(), by_columns ? 1 : k, by_columns ? m : 1, m, panel.data(), width, wide, k,
           c.data(), width, accumulate);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        double want = accumulate ? before[static_cast<size_t>(i * width + j)] : 0.0;
        for (int64_t t = 0; t < k; ++t) {
          want += static_cast<double>(a[static_cast<size_t>(by_columns ? t * m + i : i * k + t)]) *
                  panel[static_cast<size_t>(t * width + j)];
        }
        expect_near(c[static_cast<size_t>(i * width + j)], want, 2e-5, "gemm");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, SimdTest, testing::ValuesIn(all_simd().begin(), all_simd().end()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace shunt::host
