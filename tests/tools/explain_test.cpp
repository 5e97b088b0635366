// `inspect --explain`: text in which equal layers are one line, JSON with all of them, and what it
// cannot explain.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/tools/program.h"

namespace shunt::test {

namespace {

using nlohmann::json;

void expect_parts(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

TEST(ExplainCommand, Text) {
  const Ran r = shunt({"inspect", data("conformance/mixtral"), "--explain"});
  ASSERT_EQ(r.code, 0) << r.err;
  expect_parts(
      r.out,
      {"num_experts_per_tok = 2 -> layer.mlp.gate.k = 2\n",
       "  attention_dropout = 0.0: has no effect on inference\n", "  layer.mlp.gate.norm = sum\n",
       "model.layers.N.self_attn.k_proj.weight bf16[32, 64] -> @lN.k_proj   (N = 0..1)\n",
       "experts.*.w1.weight bf16[8, 64, 64], 8 tensors stacked -> @lN.experts.gate"});
}

TEST(ExplainCommand, Json) {
  const Ran r = shunt({"inspect", data("conformance/mixtral"), "--explain", "-o", "json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const json tree = json::parse(r.out);
  EXPECT_EQ(tree["model"]["layer.attention.heads"], json::array({"4", "4"}));
  EXPECT_EQ(tree["model"]["vocab_size"], "128");
  EXPECT_EQ(tree["tensors"].size(), 23u);  // 3 and 10 a layer
  EXPECT_EQ(tree["unused_tensors"], json::array());
  EXPECT_EQ(tree["keys"][0]["key"], "architectures");
  EXPECT_EQ(tree["keys"][0]["ignored"], "has no effect on inference");
}

TEST(ExplainCommand, DeepSpeed) {
  const Ran r = shunt({"inspect", data("deepspeed/top2_residual"), "--explain"});
  ASSERT_EQ(r.code, 0) << r.err;
  expect_parts(r.out,
               {"mlp_type = \"residual\" -> layer.mlp.residual.width = 256 in 2 layers",
                "slice {axis = 1, begin = 1, end = 2}, reshape {shape = [64, 64]} -> @lN.k_proj",
                "concat as part 8 of 8 -> @lN.experts.down", "tensors that are not used\n",
                "torch_rng_state: is a state of the training"});
}

TEST(ExplainCommand, AFolderWithoutWeights) {
  const TempDir folder;
  write_file(folder / "config.json", read_file(data("configs/mixtral-8x7b.json")));
  const Ran r = shunt({"inspect", folder.path().string(), "--explain"});
  ASSERT_EQ(r.code, 0) << r.err;
  expect_parts(r.out, {"num_hidden_layers = 32 -> layers = 32"});
  EXPECT_EQ(r.out.find("tensors"), std::string::npos);
}

TEST(ExplainCommand, WhatItCannotExplain) {
  const Ran plan = shunt({"inspect", cpu_plan().string(), "--explain"});
  EXPECT_EQ(plan.code, 2);
  expect_parts(plan.err, {"--explain needs a model directory"});
  const Ran dot = shunt({"inspect", data("conformance/mixtral"), "--explain", "-o", "dot"});
  EXPECT_EQ(dot.code, 2);
  expect_parts(dot.err, {"-o text or -o json"});
}

}  // namespace

}  // namespace shunt::test
