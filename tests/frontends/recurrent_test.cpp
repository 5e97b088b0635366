// Models with recurrent layers through plan, session and engine on the cpu target: what a sequence
// gives does not depend on how its prompt is cut, on its neighbours, on who had its slot before, or
// on being preempted.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "ir/error.h"
#include "runtime/engine/engine.h"
#include "tests/frontends/model_dir.h"
#include "tests/paths.h"
#include "tools/driver.h"
#include "tools/verify.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSeqs = 3, kMaxLength = 160;
constexpr int32_t kVocab = 128;

class RecurrentModel : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = fs::path(source_dir()) / "tests/data/conformance" / GetParam();
    plan_ = fs::path(testing::TempDir()) / (std::string("recurrent-") + GetParam());
  }
  void TearDown() override { fs::remove_all(plan_); }

  /// Steps of at most `tokens` tokens.
  std::unique_ptr<Session> load(int64_t tokens, int64_t pages = 0) {
    CompileOptions options;
    options.model_dir = model_;
    options.max_model_len = kMaxLength;
    options.max_num_seqs = kSeqs;
    options.max_num_batched_tokens = tokens;
    options.max_logit_rows = tokens;
    write_plan(compile(options), plan_);
    SessionOptions session;
    session.threads = 2;
    session.kv_pages = pages;
    session.poison = true;
    return std::make_unique<Session>(load_plan(plan_), plan_, session);
  }

  static std::vector<int32_t> prompt(int seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    std::vector<int32_t> ids(1 + random() % 20);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
    return ids;
  }

  fs::path model_, plan_;
};

void expect_close(const std::vector<float>& got, const std::vector<float>& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], 1e-4) << i;
}

TEST_P(RecurrentModel, ChunksGiveWhatTheWholePromptGives) {
  std::vector<int32_t> ids = prompt(1);
  ids.resize(40, 7);
  const auto whole_session = load(64);
  const std::vector<float> whole = Engine(*whole_session).score(ids);
  for (const int64_t chunk : {3, 7, 16}) {
    const auto session = load(chunk);
    Engine engine(*session);
    expect_close(engine.score(ids), whole);
    expect_close(engine.score(ids), whole);  // in a slot that has been used
  }
}

TEST_P(RecurrentModel, DecodingGivesWhatTheWholePromptGives) {
  load(64);  // writes the plan
  const auto runner = make_plan_runner(plan_, 0);
  SequenceFeeder feeder(*runner, 2, 40);
  const std::vector<int32_t> a(30, 5), b = {9, 1, 77, 3, 3, 50, 120, 8, 64, 31, 2, 2, 19, 99, 4};
  std::vector<int32_t> ids[] = {a, b};
  for (size_t i = 0; i < ids[0].size(); ++i) ids[0][i] += static_cast<int32_t>(i * i % 100);
  const Matrix whole[] = {feeder.append(0, ids[0], false).logits,
                          feeder.append(1, ids[1], false).logits};
  feeder.reset(0);
  feeder.reset(1);
  constexpr size_t kAhead = 11;  // sequence 0 is decoded beside sequence 1 from another position
  feeder.append(0, std::span(ids[0]).first(kAhead), false);
  for (size_t i = 0; i < ids[1].size(); ++i) {
    const Matrix logits = feeder.decode(std::vector{ids[0][kAhead + i], ids[1][i]}).logits;
    const size_t at[] = {kAhead + i, i};
    for (int s = 0; s < 2; ++s) {
      const float* row = whole[s].row(static_cast<int64_t>(at[s]));
      expect_close({logits.row(s), logits.row(s) + kVocab}, {row, row + kVocab});
    }
  }
}

/// What each of the requests [first, last) generates when they are submitted together.
std::vector<std::vector<int32_t>> generate(Engine& engine, int first, int last, int64_t tokens,
                                           std::vector<int32_t> (*prompt)(int)) {
  SamplingParams params;
  params.max_tokens = tokens;
  params.ignore_eos = true;
  std::vector<std::vector<int32_t>> ids(static_cast<size_t>(last - first));
  for (int i = first; i < last; ++i) {
    engine.submit(prompt(i), params, [&mine = ids[static_cast<size_t>(i - first)]](auto& e) {
      if (e.token >= 0) mine.push_back(e.token);
    });
  }
  engine.run_until_done();
  return ids;
}

TEST_P(RecurrentModel, BatchesGiveWhatSingleRequestsGive) {
  constexpr int kRequests = 9;
  const auto session = load(8);
  Engine engine(*session);
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < kRequests; ++i) alone.push_back(generate(engine, i, i + 1, 12, prompt)[0]);
  EXPECT_EQ(generate(engine, 0, kRequests, 12, prompt), alone);
  EXPECT_EQ(engine.stats().preemptions, 0);
}

TEST_P(RecurrentModel, PreemptionChangesNothing) {
  const auto ample = load(8);
  Engine calm(*ample);
  const auto wanted = generate(calm, 0, 3, 80, prompt);
  const auto tight = load(8, 3);  // pages for one full sequence; each of the three needs two
  Engine engine(*tight);
  EXPECT_EQ(generate(engine, 0, 3, 80, prompt), wanted);
  EXPECT_GT(engine.stats().preemptions, 0);
}

TEST_P(RecurrentModel, ScoringNeedsASlot) {
  const auto session = load(8);
  Engine engine(*session);
  SamplingParams params;
  params.ignore_eos = true;
  std::vector<int64_t> requests;
  for (int i = 0; i < kSeqs; ++i)
    requests.push_back(engine.submit(prompt(i), params, [](const TokenEvent&) {}));
  for (int i = 0; i < 12; ++i) engine.step();
  const std::vector<int32_t> ids = {1, 2, 3};
  try {
    engine.score(ids);
    FAIL() << "no error";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("--max-num-seqs"), std::string::npos) << e.what();
  }
  EXPECT_TRUE(engine.cancel(requests[1]));
  engine.step();
  EXPECT_EQ(engine.score(ids).size(), 3u * kVocab);
  engine.run_until_done();
}

/// The arithmetic of a GPU plan, by the evaluator: activations rounded to 16 bits between ops.
TEST_P(RecurrentModel, HalfPrecisionStaysClose) {
  const std::vector<GoldenSequence> golden = load_golden(model_ / "golden.safetensors");
  for (const char* dtype : {"bf16", "f16"}) {
    for (const bool after_passes : {false, true}) {
      CompileOptions options;
      options.model_dir = model_;
      options.target = "sm_90a";
      options.dtype = dtype;
      options.max_model_len = 64;
      options.max_num_seqs = 2;
      options.max_num_batched_tokens = options.max_logit_rows = 48;
      options.force_routing = true;
      VerifyOptions verify;
      verify.float32 = false;
      const auto runner = make_reference_runner(options, after_passes, 8);
      for (const VerifyLine& line : verify_golden(*runner, golden, verify).lines)
        EXPECT_TRUE(line.ok) << dtype << " " << line.what << ": " << line.text;
    }
  }
}

std::string config_of(const char* name) {
  return test_data(std::string("conformance/") + name + "/config.json");
}

TEST(RecurrentConfig, AnIntervalStandsForLayerTypes) {
  const std::string config = config_of("qwen3_next");
  const std::string listed =
      edited(config,
             {{"layer_types",
               R"(["linear_attention", "linear_attention", "full_attention", "linear_attention"])"},
              {"num_hidden_layers", "4"}});
  const std::string counted = edited(
      config, {{"layer_types", ""}, {"full_attention_interval", "3"}, {"num_hidden_layers", "4"}});
  EXPECT_EQ(ir::print(*ModelDir(listed).import_dummy().module),
            ir::print(*ModelDir(counted).import_dummy().module));
}

TEST(RecurrentConfig, BiasesOfShortConvolutions) {
  const auto module =
      ModelDir(edited(config_of("lfm2_moe"), {{"conv_bias", "true"}})).import_dummy().module;
  for (const char* name :
       {"l0.conv_b_bias", "l0.conv_c_bias", "l0.conv_x_bias", "l0.conv_bias", "l0.out_proj_bias"}) {
    EXPECT_NE(module->find_param(name), nullptr) << name;
  }
}

TEST(RecurrentConfig, Refusals) {
  const auto refuses = [](const char* name, std::map<std::string, std::string> edits,
                          const std::string& text) {
    const std::string error =
        user_error_of([&] { ModelDir(edited(config_of(name), edits)).import_dummy(); });
    EXPECT_NE(error.find(text), std::string::npos) << error;
  };
  refuses("lfm2_moe", {{"layer_types", R"(["conv", "linear_attention"])"}},
          "'layer_types': has an entry that is neither conv nor full_attention");
  refuses("lfm2_moe", {{"layer_types", R"(["conv"])"}}, "has not one entry a layer");
  refuses("lfm2_moe", {{"conv_L_cache", "1"}}, "'conv_L_cache'");
  refuses("qwen3_next", {{"layer_types", R"(["conv", "full_attention"])"}},
          "neither linear_attention nor full_attention");
  refuses("qwen3_next", {{"linear_num_value_heads", "3"}}, "no multiple of the 2 key heads");
  refuses("qwen3_next",
          {{"linear_num_value_heads", "1024"},
           {"linear_key_head_dim", "1024"},
           {"linear_value_head_dim", "1024"}},
          "are too wide");
  refuses("qwen3_next", {{"use_sliding_window", "true"}}, "'use_sliding_window'");
  refuses("qwen3_next", {{"linear_decay", "0.5"}}, "linear_decay");
}

INSTANTIATE_TEST_SUITE_P(Models, RecurrentModel, testing::Values("lfm2_moe", "qwen3_next"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace shunt
