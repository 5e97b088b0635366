// Whole models with f16 activations compile for sm_90a: every kernel of every program has an f16
// form, with weights of either type.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/paths.h"
#include "tools/driver.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

class F16Model : public testing::TestWithParam<const char*> {};

TEST_P(F16Model, compiles_for_sm_90a) {
  CompileOptions options;
  options.model_dir = fs::path(source_dir()) / "tests/data/conformance" / GetParam();
  options.target = "sm_90a";
  options.dtype = "f16";
  options.max_model_len = 128;
  options.max_num_seqs = 4;
  options.max_num_batched_tokens = 64;
  options.cache_dir =
      fs::path(testing::TempDir()) / ("f16-cache-" + std::to_string(getpid()) + GetParam());
  const CompiledPlan compiled = compile(options);
  fs::remove_all(options.cache_dir);
  EXPECT_EQ(compiled.plan.activation_dtype, "f16");
  EXPECT_GT(compiled.kernels_compiled, 0);
  for (const StateDecl& state : compiled.plan.states) EXPECT_EQ(state.row.dtype, DType::f16);
}

INSTANTIATE_TEST_SUITE_P(Folders, F16Model, testing::Values("llama", "qwen3_moe"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace shunt
