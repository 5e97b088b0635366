// Every family: the golden logical module of its conformance case
// (tests/frontends/golden/<case>.mir; SHUNT_UPDATE=1 rewrites it), and the published shapes.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

#include "tests/frontends/model_dir.h"
#include "tests/paths.h"

namespace shunt {
namespace {

const std::string kGolden = std::string(source_dir()) + "/tests/frontends/golden/";

FrontendOptions small_limits() {
  FrontendOptions o;
  o.max_model_len = 64;
  o.max_num_seqs = 4;
  o.max_num_batched_tokens = 32;
  o.page_size = 16;
  return o;
}

std::string import_case(const std::string& name, FrontendOptions options = small_limits()) {
  const ModelDir dir(test_data("conformance/" + name + "/config.json"));
  dir.write("model.safetensors", test_data("conformance/" + name + "/model.safetensors"));
  const ImportedModel model = dir.import(options);
  ir::verify(*model.module);
  EXPECT_TRUE(model.unused_tensors.empty()) << model.unused_tensors[0].tensor;
  EXPECT_TRUE(model.warnings.empty()) << model.warnings[0];
  return ir::print(*model.module);
}

class FamilyGolden : public testing::TestWithParam<const char*> {};

TEST_P(FamilyGolden, logical_module) {
  const std::string text = import_case(GetParam());
  const std::string path = kGolden + GetParam() + ".mir";
  const char* update = std::getenv("SHUNT_UPDATE");
  if (update != nullptr && std::string(update) == "1") std::ofstream(path) << text;
  std::ifstream in(path);
  ASSERT_TRUE(in) << path << " is missing: run with SHUNT_UPDATE=1";
  const std::string expected((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(text, expected) << "run with SHUNT_UPDATE=1 if the change is meant";
  EXPECT_EQ(ir::print(*ir::parse(text)), text);
}

INSTANTIATE_TEST_SUITE_P(Cases, FamilyGolden,
                         testing::Values("mixtral", "mixtral_window", "qwen3_moe", "olmoe", "llama",
                                         "llama_rope3", "lfm2_moe", "qwen3_next"),
                         [](const auto& info) { return std::string(info.param); });

/// Keys that another key makes meaningless are read all the same: Falcon-40B has parallel_attn.
TEST(KeysWithoutSay, are_no_unknown_keys) {
  const std::string falcon =
      edited(test_data("conformance/falcon/config.json"), {{"new_decoder_architecture", "true"}});
  ModelDir(edited(falcon, {{"parallel_attn", "true"}})).import_dummy();
  const ModelDir no_input(
      edited(falcon, {{"parallel_attn", "false"}, {"num_ln_in_parallel_attn", "1"}}));
  EXPECT_NE(user_error_of([&] { no_input.import_dummy(); }).find("key 'parallel_attn'"),
            std::string::npos);
  ModelDir(edited(test_data("conformance/opt/config.json"),
                  {{"do_layer_norm_before", "false"}, {"_remove_final_layer_norm", "true"}}))
      .import_dummy();
}

class PublishedShape : public testing::TestWithParam<const char*> {};

TEST_P(PublishedShape, imports_from_its_config_alone) {
  const ModelDir dir(test_data(std::string("configs/") + GetParam() + ".json"));
  const auto start = std::chrono::steady_clock::now();
  const ImportedModel model = dir.import_dummy();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ir::verify(*model.module);
  EXPECT_TRUE(model.warnings.empty());
  EXPECT_EQ(model.activation, DType::bf16);
  EXPECT_EQ(model.facts.moe_layers, model.facts.layers);
  EXPECT_LT(seconds.count(),
            5.0);  // 1 s as a release build on a quiet machine; sanitisers are slower
}

TEST(PublishedShape, parameter_counts) {
  const std::map<std::string, int64_t> counts = {
      {"mixtral-8x7b", 46702792704}, {"qwen3-30b-a3b", 30532122624}, {"olmoe-1b-7b", 6919161856}};
  for (const auto& [name, expected] : counts) {
    const ModelDir dir(test_data("configs/" + name + ".json"));
    const ImportedModel model = dir.import_dummy();
    int64_t count = 0;
    for (const ir::Param& param : model.module->params) {
      if (param.value->name != "inv_freq") count += param.value->type.elements().constant();
    }
    EXPECT_EQ(count, expected) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, PublishedShape,
                         testing::Values("mixtral-8x7b", "qwen3-30b-a3b", "olmoe-1b-7b"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace shunt
