#include "ir/expr.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ir/error.h"

namespace shunt {
namespace {

float eval(const std::string& text, std::vector<float> values = {}) {
  return Expr::parse(text).evaluate(values);
}

TEST(Expr, Evaluates) {
  EXPECT_FLOAT_EQ(eval("1 + 2 * 3 - 4 / 8"), 6.5f);
  EXPECT_FLOAT_EQ(eval("-(1 - 3) * -2"), -4.0f);
  EXPECT_FLOAT_EQ(eval("clamp(x0, -1, 1)", {5}), 1.0f);
  EXPECT_FLOAT_EQ(eval("min(x0, x1) + max(x0, x1)", {2, 3}), 5.0f);
  EXPECT_FLOAT_EQ(eval("silu(gate) * up", {1, 3}), 3.0f / (1.0f + std::exp(-1.0f)));
  EXPECT_FLOAT_EQ(eval("gelu(x)", {1}), 0.84134474f);
  EXPECT_FLOAT_EQ(eval("gelu_tanh(x)", {1}), 0.84119199f);
  EXPECT_FLOAT_EQ(eval("softplus(x)", {1}), std::log1p(std::exp(1.0f)));
  EXPECT_EQ(eval("softplus(x)", {200}), 200.0f);
  EXPECT_FLOAT_EQ(eval("softplus(x)", {-20}), std::exp(-20.0f));
  EXPECT_FLOAT_EQ(eval("quick_gelu(x)", {1}), 1.0f / (1.0f + std::exp(-1.702f)));
  EXPECT_FLOAT_EQ(eval("relu(x) + abs(x)", {-2}), 2.0f);
  EXPECT_FLOAT_EQ(eval("sqrt(4) * rsqrt(4) + exp(0) + tanh(0) + sigmoid(0)"), 2.5f);
}

TEST(Expr, PrintsCanonically) {
  for (const char* text :
       {"acc + x0", "silu(gate) * up", "(a + b) * c", "a - (b - c)", "a / (b * c)", "-a * b",
        "clamp(x0, -1, 7.5)", "-(a + b)", "a - b - c"}) {
    EXPECT_EQ(Expr::parse(text).to_string(), text);
    EXPECT_EQ(Expr::parse(Expr::parse(text).to_string()), Expr::parse(text));
  }
  EXPECT_EQ(Expr::parse("((a)+(b))").to_string(), "a + b");
}

TEST(Expr, SubstituteAndRename) {
  const Expr swiglu = Expr::parse("silu(x0) * x1");
  EXPECT_EQ(swiglu.substitute("x1", Expr::parse("u + 1")).to_string(), "silu(x0) * (u + 1)");
  EXPECT_EQ(swiglu.rename({{"x0", "x1"}, {"x1", "x0"}}).to_string(), "silu(x1) * x0");
  EXPECT_EQ(swiglu.variables(), (std::vector<std::string>{"x0", "x1"}));
  EXPECT_EQ(swiglu.stack_depth(), 2);
}

TEST(Expr, CudaText) {
  const Expr e = Expr::parse("silu(gate) * (up + 1) / 0.5");
  const std::vector<std::string> names = {"g", "u"};
  EXPECT_EQ(e.to_cuda(names), "shunt::silu(g) * (u + 1.0f) / 0.5f");
}

TEST(Expr, RefusesNonsense) {
  for (const char* bad :
       {"", "1 +", "silu()", "silu(1, 2)", "nope(1)", "min(1)", "(1", "1 2", "a b", "$"}) {
    EXPECT_THROW(Expr::parse(bad), UserError) << bad;
  }
  EXPECT_THROW(Expr::parse(std::string(100000, '(')), UserError);
  EXPECT_THROW(Expr::parse(std::string(100000, '-') + "1"), UserError);
  std::string long_sum = "1";
  for (int i = 0; i < 5000; ++i) long_sum += "+1";
  EXPECT_THROW(Expr::parse(long_sum), UserError);
}

}  // namespace
}  // namespace shunt
