// Near-ties in what a gate ranks: bias, groups, the order of the sparse mixer; and `verify` forcing
// them, from router logits of the golden or of a float32 run.
#include "tools/near_ties.h"

#include <gtest/gtest.h>

#include "ir/error.h"
#include "tests/tools/program.h"
#include "tools/verify.h"

namespace shunt::test {

namespace {

Router router(int64_t experts, int64_t k, ir::ScoreFunction score) {
  Router r;
  r.number = "0";
  r.experts = experts;
  r.gate.k = k;
  r.gate.score = score;
  return r;
}
bool tie(const Router& r, const std::vector<float>& logits) {
  return is_near_tie(r, logits.data());
}

TEST(NearTies, OnePerCentOfTheLargestLogit) {
  for (const auto score : {ir::ScoreFunction::softmax, ir::ScoreFunction::sigmoid,
                           ir::ScoreFunction::sqrt_softplus, ir::ScoreFunction::identity}) {
    const Router r = router(4, 2, score);
    EXPECT_TRUE(tie(r, {-4, 1, 0.97f, 3})) << static_cast<int>(score);
    EXPECT_FALSE(tie(r, {-4, 1, 0.95f, 3})) << static_cast<int>(score);
    EXPECT_FALSE(tie(r, {3, 1, -4, 2.99f})) << "both are chosen";
    EXPECT_FALSE(tie(router(2, 2, score), {1, 1})) << "none is left";
  }
}

TEST(NearTies, TheBiasDecides) {
  Router r = router(3, 1, ir::ScoreFunction::sigmoid);
  EXPECT_FALSE(tie(r, {2, 0, -2}));
  r.bias = {0, 0.3809f, 0};  // sigmoid(2) = 0.8808, sigmoid(0) + bias = 0.8809
  EXPECT_TRUE(tie(r, {2, 0, -2}));
  EXPECT_FALSE(tie(r, {2, 1.99f, -2})) << "a tie of the logits that the bias ends";
  r.gate.score = ir::ScoreFunction::softmax;
  r.bias = {0, 0.7506f, 0};  // 0.8668, 0.1173 + bias
  EXPECT_TRUE(tie(r, {2, 0, -2}));
  r.bias[1] = 0.6f;
  EXPECT_FALSE(tie(r, {2, 0, -2}));
}

TEST(NearTies, GroupsBeforeExperts) {
  Router r = router(6, 1, ir::ScoreFunction::identity);
  r.gate.groups = 3;
  r.gate.keep_groups = 1;
  EXPECT_FALSE(tie(r, {5, 1, 3, 4.9f, 0, 0}));
  EXPECT_TRUE(tie(r, {5, 1, 3, 4.96f, 0, 0})) << "two groups";
  EXPECT_TRUE(tie(r, {5, 4.96f, 3, 4, 0, 0})) << "two experts of the group";
  r.gate.group_score = ir::GroupScore::top2_sum;
  EXPECT_FALSE(tie(r, {5, 1, 4.99f, 0, 0, 0})) << "near experts, groups far apart";
  EXPECT_TRUE(tie(r, {5, 1, 3, 2.97f, 0, 0})) << "far experts, groups near";
}

TEST(NearTies, SparseMixerChoosesInOrder) {
  Router r = router(4, 2, ir::ScoreFunction::sparse_mixer);
  EXPECT_FALSE(tie(r, {4, 2, 0, 0}));
  EXPECT_TRUE(tie(r, {4, 3.97f, 0, 0})) << "first and second change places";
  EXPECT_TRUE(tie(r, {4, 2, 1.97f, 0}));
}

TEST(NearTies, ForcedRowsHoldTheGatesChoice) {
  Router r = router(3, 2, ir::ScoreFunction::softmax);
  const std::map<std::string, Matrix> first = {{"router_logits.0", {2, 3, {1, 3, 0.99f, 1, 3, 0}}}},
                                      second = {{"router_logits.0", {1, 3, {2, 2, 2}}}};
  const ForcedChoices forced = force_near_ties({r}, {&first, &second});
  EXPECT_EQ(forced.count, 2);
  EXPECT_EQ(forced.rows.at("forced.0"), (std::vector<int32_t>{1, 0, -1, -1, 0, 1}));
  r.gate.sample_second = true;
  EXPECT_EQ(force_near_ties({r}, {&first}).random_layers, 1);
  r.number = "1";
  r.gate.sample_second = false;
  EXPECT_THROW(force_near_ties({r}, {&first}), UserError);
}

/// A cpu plan that takes forced choices, judged as a GPU's is.
void expect_forced(const std::string& model, int64_t ties) {
  SCOPED_TRACE(model);
  const auto golden = load_golden(std::filesystem::path(data(model)) / "golden.safetensors");
  CompileOptions o;
  o.model_dir = data(model);
  o.max_num_seqs = 2;
  o.max_num_batched_tokens = o.max_logit_rows = 48;
  o.max_model_len = 64;
  VerifyOptions options;
  options.float32 = false;
  options.routers = read_routers(o);
  options.make_float32_runner = [o] { return make_plan_runner(compile_cached(o).directory, 8); };
  o.force_routing = true;
  const auto runner = make_plan_runner(compile_cached(o).directory, 8);
  const VerifyReport report = verify_golden(*runner, golden, options);
  EXPECT_TRUE(report.ok());
  EXPECT_EQ(report.lines.at(0).text, fmt::format("{} near-ties forced", ties));
}

TEST(NearTies, VerifyForcesThem) {
  expect_forced("conformance/qwen3_moe", 7);
  expect_forced("conformance/deepseek_v3", 2);
  expect_forced("conformance/phimoe", 4);
  expect_forced("conformance/ernie4_5_moe", 4);
  expect_forced("conformance/llama4_text", 3);
  expect_forced("deepspeed/top2_residual", 2);
}

}  // namespace

}  // namespace shunt::test
