// Building, rewriting, sweeping, cloning, printing and parsing modules.
#include "ir/module.h"

#include <gtest/gtest.h>

#include "ir/error.h"

namespace shunt::ir {
namespace {

constexpr const char* kText = R"(module @tiny stage(logical)
page_size 64
dim T in [1, 8]
param @norm : bf16[4]
param @w : bf16[6, 4]
graph @load() {
  at "model.norm"
    %n = checkpoint {tensor = "norm.weight", shape = [4]} : bf16[4]
    store %n, @norm
    %v = checkpoint {tensor = "w \"quoted\"", shape = [6, 4]} : bf16[6, 4]
    store %v, @w
  return
}
graph @step(%h : bf16[T, 4]) dims(T in [1, 4]) {
  at "model.layers.0"
    %n = rms_norm %h, @norm {eps = 1e-06} : bf16[T, 4]
    %y = linear %n, @w {out = f32} : f32[T, 6]
  return %y
}
)";

TEST(Text, PrintsWhatItParses) {
  const auto module = parse(kText);
  verify(*module);
  EXPECT_EQ(print(*module), kText);
}

TEST(Text, ErrorsNameTheLine) {
  const auto fails = [](std::string from, std::string to, std::string message) {
    std::string text = kText;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    try {
      verify(*parse(text));
      ADD_FAILURE() << "accepted: " << to;
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << e.what();
    }
  };
  fails("rms_norm %h", "rms_nrm %h", "line 16");
  fails("rms_norm %h", "rms_norm %g", "%g");
  fails("eps = 1e-06", "epsilon = 1e-06", "epsilon");
  fails("f32[T, 6]", "f32[T, 7]", "%y is written as f32[T, 7]");
  fails("@norm : bf16[4]", "@norm : bf16[5]", "store (C1)");
  fails("rms_norm %h, @norm", "rms_norm %h, @w", "rms_norm (C1)");
  fails("param @w : bf16[6, 4]", "param @norm : bf16[6, 4]", "exists");
  fails("[T, 4]) dims", "[U, 4]) dims", "U");
  fails("return %y\n}", "return %y\n", "'}'");
  fails("dim T in [1, 8]", "dim T in [8, 1]", "range");
}

TEST(Module, ReplaceKeepsNamesAndSweepRemovesTheRest) {
  const auto module = parse(kText);
  Graph& step = *module->find_graph("step");
  Op& norm = **step.ops.begin();
  GraphBuilder before(step, step.ops.begin());
  Value* again =
      before.value(OpKind::rms_norm, {norm.operand(0), norm.operand(1)}, norm.attrs, "n");
  EXPECT_EQ(again->name, "n.1");
  replace_uses(step, norm.result(), again);
  EXPECT_EQ(again->name, "n");
  EXPECT_EQ(sweep(step), 1);
  verify(*module);
  EXPECT_EQ(step.ops.size(), 2u);

  // Nothing uses the linear any more: it, the norm, both parameters and what loads them go.
  step.outputs = {step.inputs[0].get()};
  EXPECT_GT(sweep(*module), 0);
  EXPECT_TRUE(step.ops.empty());
  EXPECT_TRUE(module->params.empty());
  EXPECT_TRUE(module->find_graph("load")->ops.empty());
}

TEST(Module, ClonesAreEqualAndIndependent) {
  const auto module = parse(kText);
  const auto copy = clone(*module);
  EXPECT_EQ(print(*copy), print(*module));
  verify(*copy);
  copy->find_graph("step")->outputs = {copy->find_graph("step")->inputs[0].get()};
  sweep(*copy);
  verify(*module);
  EXPECT_EQ(print(*module), kText);

  module->graphs.push_back(clone(*module->find_graph("step"), "step.2"));
  verify(*module);
}

TEST(Module, VerifyCatchesBrokenStructure) {
  const auto module = parse(kText);
  Graph& step = *module->find_graph("step");
  step.ops.reverse();
  EXPECT_THROW(verify(*module), UserError);
  step.ops.reverse();
  step.ops.back()->result()->type.dtype = DType::bf16;
  EXPECT_THROW(verify(*module), UserError);
}

}  // namespace
}  // namespace shunt::ir
