// Configs as models are published, with the keys of their releases and quantised checkpoints: they
// import, ask for nothing but what auto_map names, and have as many parameters as the model.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/frontends/model_dir.h"

namespace shunt {
namespace {

struct Published {
  const char* name;
  int64_t parameters;  // layers that predict further tokens left out; 0: not known
};

class PublishedConfig : public testing::TestWithParam<Published> {};

TEST_P(PublishedConfig, imports) {
  const ModelDir dir(test_data(std::string("configs/") + GetParam().name + ".json"));
  const ImportedModel model = dir.import_dummy();
  for (const std::string& warning : model.warnings)
    EXPECT_NE(warning.find("ignored: auto_map"), std::string::npos) << warning;
  EXPECT_EQ(model.activation, DType::bf16);
  int64_t count = 0;
  for (const ir::Param& param : model.module->params) {
    if (param.value->name != "inv_freq") count += param.value->type.elements().constant();
  }
  if (GetParam().parameters > 0) {
    EXPECT_EQ(count, GetParam().parameters);
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, PublishedConfig,
                         testing::Values(Published{"gpt-oss-120b", 116829156672},
                                         Published{"gpt-oss-20b", 20914757184},
                                         Published{"deepseek-v3", 671026419200},
                                         Published{"kimi-k2", 0}, Published{"glm-4.5-air", 0},
                                         Published{"ernie-4.5-21b-a3b", 0},
                                         Published{"hunyuan-a13b", 0}, Published{"minimax-m2", 0},
                                         Published{"qwen3-30b-a3b-fp8", 30532122624}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::ranges::replace_if(
                               name, [](char c) { return c == '-' || c == '.'; }, '_');
                           return name;
                         });

}  // namespace
}  // namespace shunt
