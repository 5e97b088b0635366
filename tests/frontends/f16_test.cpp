// f16 checkpoints: a dense and a MoE folder of the kit saved again as float16 give the kit's
// goldens, and choose f16 activations where nothing else is asked for.
#include <gtest/gtest.h>

#include <cstring>

#include "runtime/checkpoint/checkpoint.h"
#include "tests/frontends/cpu_model.h"
#include "tests/frontends/model_dir.h"
#include "tests/paths.h"
#include "tools/verify.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

class F16 : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = fs::path(source_dir()) / "tests/data/conformance" / GetParam();
    StoredTensors tensors = read_tensors(folder_);
    for (auto& [name, tensor] : tensors) {
      ASSERT_EQ(tensor.dtype, DType::bf16) << name;
      tensor.dtype = DType::f16;
      for (size_t i = 0; i < tensor.bytes.size(); i += 2) {
        uint16_t bits = 0;
        std::memcpy(&bits, tensor.bytes.data() + i, 2);
        bits = f16_from_f32(f32_from_bf16(bits));
        std::memcpy(tensor.bytes.data() + i, &bits, 2);
      }
    }
    dir_ = std::make_unique<ModelDir>(
        edited(test_data(std::string("conformance/") + GetParam() + "/config.json"),
               {{"dtype", "\"float16\""}}));
    dir_->write_tensors(tensors);
  }

  fs::path folder_;
  std::unique_ptr<ModelDir> dir_;
};

TEST_P(F16, gives_the_goldens_of_the_kit) {
  const std::vector<GoldenSequence> golden = load_golden(folder_ / "golden.safetensors");
  const auto check = [&](StepRunner& runner) {
    for (const VerifyLine& line : verify_golden(runner, golden, {}).lines)
      EXPECT_TRUE(line.ok) << line.what << ": " << line.text;
  };
  const CompileOptions options = small_cpu_options(dir_->path());
  check(CpuModel(options).runner());
  check(*make_reference_runner(options, true, 8));
}

TEST_P(F16, is_the_type_of_activations_and_weights) {
  const ImportedModel model = dir_->import();
  EXPECT_EQ(model.activation, DType::f16);
  for (const ir::Param& param : model.module->params) {
    const bool table = param.value->name == "inv_freq";
    EXPECT_EQ(param.value->type.dtype, table ? DType::f32 : DType::f16) << param.value->name;
  }
  EXPECT_EQ(model.module->states[0].value->type.dtype, DType::f16);
  FrontendOptions bf16;
  bf16.dtype = "bf16";
  EXPECT_EQ(dir_->import(bf16).activation, DType::bf16);
}

INSTANTIATE_TEST_SUITE_P(Folders, F16, testing::Values("llama", "qwen3_moe"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace shunt
