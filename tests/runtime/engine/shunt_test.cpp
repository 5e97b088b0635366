// The public header: text in, text out over a hand-written plan with a tokenizer of 15 letters; and
// the example of the README and of the header, which are compiled here (readme_example.inc) and
// must be the same text.
#include <cstdio>

#include "runtime/shunt.h"

// The example's `int main(...) {` becomes a void function: only a real main may end without a
// return.
#define main(...)       \
  readme_main_unused(); \
  void readme_main(__VA_ARGS__)
#include "tests/paths.h"
#include "tests/runtime/engine/readme_example.inc"
#undef main

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "ir/error.h"
#include "tests/runtime/plan/tiny_plan.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in) << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// A plan directory that is its own model directory.
class ModelTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / "shunt_model_test";
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    Plan plan = test::tiny_plan();
    plan.model_directory = directory_.string();
    std::ofstream(directory_ / "plan.json") << to_json(plan);
    std::string vocab = R"("<|end|>": 0)";
    for (int i = 1; i < test::kVocab; ++i) {
      vocab += std::string(", \"") + static_cast<char>('a' + i - 1) + "\": " + std::to_string(i);
    }
    std::ofstream(directory_ / "tokenizer.json")
        << R"({"version": "1.0", "truncation": null, "padding": null,
      "added_tokens": [{"id": 0, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true}],
      "normalizer": null,
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
      "post_processor": null,
      "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
      "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": {)"
        << vocab << R"(}, "merges": []}})";
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path directory_;
};

GenerateOptions sampled(int64_t tokens) {
  GenerateOptions options;
  options.temperature = 2;
  options.seed = 7;
  options.max_tokens = tokens;
  options.ignore_eos = true;
  return options;
}

TEST_F(ModelTest, GeneratesWhatItStreams) {
  Model model(directory_);
  EXPECT_TRUE(model.alive());
  EXPECT_TRUE(model.ready());
  std::string streamed;
  int pieces = 0;
  const std::string text = model.generate("cab", sampled(12), [&](std::string_view piece) {
    EXPECT_FALSE(piece.empty());
    streamed += piece;
    ++pieces;
    return true;
  });
  EXPECT_EQ(streamed, text);
  EXPECT_GE(text.size(), 8u);  // of 12 tokens, a few may be the special one
  EXPECT_EQ(static_cast<size_t>(pieces), text.size());
  EXPECT_EQ(text.find_first_not_of("abcdefghijklmno"), std::string::npos);
  EXPECT_EQ(model.generate("cab", sampled(12)), text);
}

TEST_F(ModelTest, CallbackEndsGeneration) {
  Model model(directory_);
  const std::string whole = model.generate("cab", sampled(12));
  std::string streamed;
  const std::string text = model.generate("cab", sampled(12), [&](std::string_view piece) {
    streamed += piece;
    return streamed.size() < 3;
  });
  EXPECT_EQ(text, whole.substr(0, 3));
  EXPECT_EQ(streamed, text);
  EXPECT_EQ(model.engine().unfinished(), 0);
}

TEST_F(ModelTest, BatchGivesWhatEachGivesAlone) {
  Model model(directory_);
  const std::vector<std::string> prompts = {"a", "bcd", "efghijkl", "mn", "o"};
  const std::vector<std::string> texts = model.generate(prompts, sampled(9));
  ASSERT_EQ(texts.size(), prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    GenerateOptions mine = sampled(9);
    mine.seed += i;
    EXPECT_EQ(texts[i], model.generate(prompts[i], mine)) << i;
  }
}

TEST_F(ModelTest, CallbackMayThrow) {
  Model model(directory_);
  const auto angry = [](std::string_view) -> bool { throw std::runtime_error("stop"); };
  EXPECT_THROW(model.generate("cab", sampled(5), angry), std::runtime_error);
  EXPECT_TRUE(model.ready());
  EXPECT_FALSE(model.generate("cab", sampled(5)).empty());
}

TEST_F(ModelTest, Refusals) {
  EXPECT_THROW(Model(directory_ / "nothing"), UserError);
  Model model(directory_);
  EXPECT_THROW(model.generate("", sampled(1)), UserError);
  EXPECT_THROW(model.generate({"a", std::string(40, 'b')}, sampled(1)), UserError);
  EXPECT_EQ(model.engine().unfinished(), 0);
  Plan plan = test::tiny_plan();
  std::ofstream(directory_ / "plan.json") << to_json(plan);
  Model dummy(directory_);
  EXPECT_THROW(dummy.tokenizer(), UserError);
}

TEST_F(ModelTest, TheExampleRuns) {
  std::string program = "example", plan = directory_.string(), prompt = "abc";
  char* argv[] = {program.data(), plan.data(), prompt.data(), nullptr};
  testing::internal::CaptureStdout();
  readme_main(3, argv);
  Model model(directory_);
  GenerateOptions options;
  options.max_tokens = 64;
  EXPECT_EQ(testing::internal::GetCapturedStdout(), model.generate("abc", options));
}

TEST(PublicHeader, ExamplesAreTheCompiledOne) {
  const fs::path root = source_dir();
  const std::string example = read_text(root / "tests/runtime/engine/readme_example.inc");
  EXPECT_NE(read_text(root / "README.md").find("```cpp\n" + example + "```"), std::string::npos)
      << "the C++ example of README.md differs from tests/runtime/engine/readme_example.inc";
  std::istringstream lines(read_text(root / "runtime/shunt.h"));
  std::string in_header;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("//   ")) in_header += line.substr(5) + "\n";
    if (line == "//" && !in_header.empty()) in_header += "\n";
    if (line == "//   }") break;
  }
  std::erase(in_header, '\n');
  std::string expected = example;
  std::erase(expected, '\n');
  EXPECT_EQ(in_header, expected);
}

TEST(PublicHeader, NeedsNoHeavyHeaders) {
#if defined(NLOHMANN_JSON_VERSION_MAJOR) || defined(__CUDA_RUNTIME_API_H__) || \
    defined(CUDART_VERSION)
  FAIL() << "runtime/shunt.h pulls in nlohmann or CUDA";
#endif
}

}  // namespace
}  // namespace shunt
