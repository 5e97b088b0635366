// HostExpr against Expr::evaluate, element by element.
#include "runtime/host/host_expr.h"

#include "ir/error.h"
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

void compare(const std::string& text) {
  const Expr expr = Expr::parse(text);
  const HostExpr compiled = HostExpr::compile(text);
  const std::vector<std::string> places = {"acc", "up", "x0", "x1", "x2"};
  for (int n : {0, 1, 17, 256}) {
    std::vector<std::vector<float>> data;
    std::vector<const float*> inputs;
    for (size_t i = 0; i < places.size(); ++i) data.push_back(random_floats(n, 2.0f));
    for (const auto& d : data) inputs.push_back(d.data());
    std::vector<float> out = poisoned(n);
    compiled.evaluate(inputs.data(), n, out.data());
    for (int i = 0; i < n; ++i) {
      std::vector<float> values;
      for (const std::string& name : expr.variables()) {
        const auto place =
            name == "gate" ? 0 : std::find(places.begin(), places.end(), name) - places.begin();
        values.push_back(data[static_cast<size_t>(place)][static_cast<size_t>(i)]);
      }
      const float want = expr.evaluate(values);
      if (std::isnan(want)) {
        ASSERT_TRUE(std::isnan(out[static_cast<size_t>(i)])) << text;
      } else {
        expect_near(out[static_cast<size_t>(i)], want, 2e-6, text);
      }
    }
  }
}

TEST(HostExpr, MatchesTheElementwiseMeaning) {
  for (const char* text :
       {"acc", "acc + x0", "silu(gate) * up", "gelu(acc + x0)", "gelu_tanh(acc)", "x0 + x1",
        "x0 - x1 * x2", "-x0 / 3", "clamp(gate, -1, 1) * (up + 1)", "min(x0, max(x1, x2))",
        "relu(acc) * relu(acc)", "quick_gelu(gate) * up", "tanh(acc / 30) * 30",
        "exp(x0) + sqrt(abs(x1)) + rsqrt(abs(x2) + 1)", "sigmoid(x1) * x0", "2",
        "x0 * (x1 + x0 * (x1 + x0 * (x1 + x0 * (x1 + x2))))"}) {
    compare(text);
  }
}

TEST(HostExpr, KnowsTheCommonForms) {
  EXPECT_EQ(HostExpr::compile("acc").form(), HostExpr::Form::identity);
  EXPECT_EQ(HostExpr::compile("acc+x0").form(), HostExpr::Form::acc_plus_x0);
  EXPECT_EQ(HostExpr::compile("silu(gate)*up").form(), HostExpr::Form::silu_gate_times_up);
  EXPECT_EQ(HostExpr::compile("acc * x0").form(), HostExpr::Form::general);
}

TEST(HostExpr, RefusesWhatItCannotCompute) {
  EXPECT_THROW(HostExpr::compile("acc + y"), UserError);
  EXPECT_THROW(HostExpr::compile("x8"), UserError);
  EXPECT_THROW(HostExpr::compile("x0 +"), UserError);
  std::string deep = "x0";
  for (int i = 0; i < 20; ++i) deep = "x0 * (x1 + " + deep + ")";
  EXPECT_THROW(HostExpr::compile(deep), UserError);
}

}  // namespace
}  // namespace shunt
