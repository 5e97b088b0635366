// Every folder of tests/data/conformance against its golden: the logical module and the module
// after all passes in the evaluator, and a cpu plan. Greedy ids come from decoding one token at a
// time through the KV cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "tests/frontends/model_dir.h"
#include "tests/paths.h"
#include "tools/driver.h"
#include "tools/verify.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

const fs::path kFolders = fs::path(source_dir()) / "tests/data/conformance";

class Conformance : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = load_golden(kFolders / GetParam() / "golden.safetensors");
    const GoldenSizes sizes = sizes_of(golden_);
    options_.max_num_batched_tokens = options_.max_logit_rows = sizes.tokens;
    options_.max_model_len = sizes.longest;
    options_.max_num_seqs = sizes.sequences;
    options_.model_dir = kFolders / GetParam();
    options_.target = "cpu";
    options_.on_warning = [](std::string_view warning) { ADD_FAILURE() << warning; };
  }

  void check(StepRunner& runner) {
    const VerifyReport report = verify_golden(runner, golden_, {});
    for (const VerifyLine& line : report.lines)
      EXPECT_TRUE(line.ok) << line.what << ": " << line.text;
    EXPECT_FALSE(report.lines.empty());
  }

  static constexpr int64_t kPages = 8;
  std::vector<GoldenSequence> golden_;
  CompileOptions options_;
};

TEST_P(Conformance, logical) { check(*make_reference_runner(options_, false, kPages)); }

TEST_P(Conformance, after_passes) { check(*make_reference_runner(options_, true, kPages)); }

TEST_P(Conformance, cpu_plan) {
  const fs::path plan = fs::path(testing::TempDir()) / ("conformance-" + GetParam());
  write_plan(compile(options_), plan);
  check(*make_plan_runner(plan, kPages));
  fs::remove_all(plan);
}

INSTANTIATE_TEST_SUITE_P(Folders, Conformance,
                         testing::ValuesIn(folders_with("conformance", "golden.safetensors")),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shunt
