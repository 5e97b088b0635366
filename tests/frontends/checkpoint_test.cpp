// Every tensor of the checkpoint is checked against what the config promises.
#include <gtest/gtest.h>

#include "tests/frontends/model_dir.h"

namespace shunt {
namespace {

using Tensors = std::map<std::string, FakeTensor>;

class CheckpointNeeds : public testing::Test {
 protected:
  ImportedModel import(const std::string& name, const Tensors& tensors) {
    dir_ = std::make_unique<ModelDir>(test_data("conformance/" + name + "/config.json"));
    dir_->write_tensors(tensors);
    return dir_->import();
  }
  std::string error(const std::string& name, const Tensors& tensors) {
    return user_error_of([&] { import(name, tensors); });
  }
  std::unique_ptr<ModelDir> dir_;
};

TEST_F(CheckpointNeeds, every_tensor) {
  const std::string name = "model.layers.1.block_sparse_moe.experts.5.w3.weight";
  Tensors tensors = tensors_of("mixtral");
  ASSERT_EQ(tensors.erase(name), 1u);
  const std::string message = error("mixtral", tensors);
  EXPECT_EQ(message,
            fmt::format("{}: tensor '{}' is missing: the model needs it with shape [64, 64]",
                        dir_->path().string(), name));
  tensors = tensors_of("llama");
  tensors.erase("lm_head.weight");
  EXPECT_NE(error("llama", tensors).find("tensor 'lm_head.weight' is missing"), std::string::npos);
}

TEST_F(CheckpointNeeds, the_right_shapes) {
  Tensors tensors = tensors_of("qwen3_moe");
  tensors["model.layers.0.self_attn.q_norm.weight"].shape = {64};
  const std::string message = error("qwen3_moe", tensors);
  EXPECT_EQ(
      message,
      fmt::format("{}/model.safetensors: tensor 'model.layers.0.self_attn.q_norm.weight' has shape "
                  "[64], expected [32] from config.json",
                  dir_->path().string()));
}

TEST_F(CheckpointNeeds, readable_types) {
  Tensors tensors = tensors_of("olmoe");
  tensors["model.layers.0.mlp.gate.weight"].dtype = DType::i64;
  EXPECT_NE(error("olmoe", tensors)
                .find("'model.layers.0.mlp.gate.weight' is i64; weights must be bf16, f16 or f32"),
            std::string::npos);
  tensors = tensors_of("olmoe");
  tensors["model.layers.0.mlp.experts.3.up_proj.weight"].dtype = DType::f32;
  EXPECT_NE(error("olmoe", tensors).find("experts of a layer must have one type"),
            std::string::npos);
}

TEST_F(CheckpointNeeds, nothing_more) {
  Tensors tensors = tensors_of("llama");
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {DType::f32, {8}};
  EXPECT_TRUE(import("llama", tensors).warnings.empty());
  tensors["multi_modal_projector.weight"] = {DType::f32, {4}};
  const ImportedModel model = import("llama", tensors);
  ASSERT_EQ(model.unused_tensors.size(), 1u);
  EXPECT_EQ(model.unused_tensors[0].tensor, "multi_modal_projector.weight");
  ASSERT_EQ(model.needless_tensors.size(), 1u);
  EXPECT_EQ(model.needless_tensors[0].why, "follows from the config");
  EXPECT_EQ(model.warnings.size(), 1u);
  tensors["model.layers.0.self_attn.sinks"] = {DType::f32, {4}};
  EXPECT_NE(error("llama", tensors)
                .find("tensor 'model.layers.0.self_attn.sinks' is not used by family 'llama'"),
            std::string::npos);
}

TEST_F(CheckpointNeeds, no_head_of_its_own_with_tied_embeddings) {
  Tensors tensors = tensors_of("mixtral_window");
  ASSERT_FALSE(tensors.contains("lm_head.weight"));
  tensors["lm_head.weight"] = {DType::bf16, {128, 64}};  // a copy: some conversions write it
  const ImportedModel model = import("mixtral_window", tensors);
  EXPECT_TRUE(model.unused_tensors.empty());
  EXPECT_EQ(model.module->find_param("lm_head"), nullptr);
  EXPECT_NE(ir::print(*model.module).find("%logits = linear %hidden.2, @embedding {out = f32}"),
            std::string::npos);
}

TEST_F(CheckpointNeeds, parameters_keep_their_types) {
  Tensors tensors = tensors_of("llama");
  tensors["model.layers.0.input_layernorm.weight"].dtype = DType::f32;
  const ImportedModel mixed = import("llama", tensors);
  EXPECT_EQ(mixed.module->find_param("l0.attention_norm")->type.dtype, DType::f32);
  EXPECT_EQ(mixed.activation, DType::bf16);
  for (auto& [name, tensor] : tensors) tensor.dtype = DType::f32;
  EXPECT_EQ(import("llama", tensors).activation, DType::bf16);
  for (auto& [name, tensor] : tensors) tensor.dtype = DType::f16;
  EXPECT_EQ(import("llama", tensors).activation, DType::f16);
}

/// The tensors of a case with its experts fused as transformers 5 holds them.
Tensors fused(const std::string& name, const std::string& old_module, int64_t width,
              const std::string& new_module = ".mlp.", int first = 0) {
  Tensors tensors = tensors_of(name);
  std::erase_if(tensors,
                [&](const auto& t) { return t.first.find(old_module) != std::string::npos; });
  for (int layer = first; layer < 2; ++layer) {
    const std::string mlp = fmt::format("model.layers.{}{}", layer, new_module);
    tensors[mlp + "gate.weight"].shape = {8, 64};
    tensors[mlp + "experts.gate_up_proj"].shape = {8, 2 * width, 64};
    tensors[mlp + "experts.down_proj"].shape = {8, 64, width};
  }
  return tensors;
}

TEST_F(CheckpointNeeds, experts_apart_or_fused) {
  for (const auto& [name, module, width] :
       {std::tuple{"mixtral", "block_sparse_moe", 64}, std::tuple{"qwen3_moe", ".mlp.", 32},
        std::tuple{"olmoe", ".mlp.", 64}}) {
    const ImportedModel model = import(name, fused(name, module, width));
    ir::verify(*model.module);
    EXPECT_TRUE(model.unused_tensors.empty());
    EXPECT_EQ(model.module->find_param("l1.experts.up")->type.to_string(),
              fmt::format("bf16[8, {}, 64]", width));
    const std::string text = ir::print(*model.module);
    EXPECT_NE(text.find(fmt::format("{{axis = 1, end = {}}} : bf16[8, {}, 64]", width, width)),
              std::string::npos);
    EXPECT_NE(text.find(fmt::format("{{axis = 1, begin = {}, end = {}}}", width, 2 * width)),
              std::string::npos);
  }
}

TEST_F(CheckpointNeeds, experts_of_recurrent_models_apart_or_fused) {
  const std::pair<const char*, Tensors> cases[] = {
      {"lfm2_moe", fused("lfm2_moe", "feed_forward.experts.", 32, ".feed_forward.", 1)},
      {"qwen3_next", fused("qwen3_next", "mlp.experts.", 32)}};
  for (const auto& [name, tensors] : cases) {
    const ImportedModel model = import(name, tensors);
    EXPECT_TRUE(model.unused_tensors.empty());
    EXPECT_EQ(model.module->find_param("l1.experts.up")->type.to_string(), "bf16[8, 32, 64]");
    EXPECT_NE(ir::print(*model.module).find("experts.gate_up_proj"), std::string::npos);
  }
}

TEST_F(CheckpointNeeds, whole_fused_experts) {
  Tensors tensors = fused("mixtral", "block_sparse_moe", 64);
  tensors["model.layers.1.mlp.experts.gate_up_proj"].shape = {8, 64, 64};
  EXPECT_NE(error("mixtral", tensors).find("has shape [8, 64, 64], expected [8, 128, 64]"),
            std::string::npos);
  tensors = tensors_of("mixtral");
  std::erase_if(tensors,
                [](const auto& t) { return t.first.find("experts") != std::string::npos; });
  EXPECT_NE(error("mixtral", tensors)
                .find("'model.layers.0.block_sparse_moe.experts.0.w1.weight' is missing"),
            std::string::npos);
}

}  // namespace
}  // namespace shunt
