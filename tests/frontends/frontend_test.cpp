// import_model: errors in config.json in the user's terms, limits, dtypes, dummy weights, facts.
#include "frontends/frontend.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/frontends/model_dir.h"

namespace shunt {
namespace {

std::string config_of(const std::string& name, const std::map<std::string, std::string>& edits) {
  return edited(test_data("conformance/" + name + "/config.json"), edits);
}

/// The error of importing an edited conformance config, without the path before the key.
std::string error_of(const std::string& name, const std::map<std::string, std::string>& edits) {
  const ModelDir dir(config_of(name, edits));
  const std::string error = user_error_of([&] { dir.import_dummy(); });
  const std::string file = (dir.path() / "config.json").string() + ": ";
  if (error.empty()) return "(no error)";
  EXPECT_EQ(error.find(file), 0u) << error;
  return error.substr(std::min(file.size(), error.size()));
}

ImportedModel import_edited(const std::string& name,
                            const std::map<std::string, std::string>& edits,
                            FrontendOptions options = {}) {
  return ModelDir(config_of(name, edits)).import_dummy(options);
}

TEST(Frontend, unknown_model_type_lists_the_known_ones) {
  const std::string error = error_of("llama", {{"model_type", "\"mamba\""}});
  EXPECT_EQ(error.find("key 'model_type': 'mamba' is not supported; known families: bert, bloom, "),
            0u)
      << error;
  EXPECT_NE(error.find(", qwen3, qwen3_moe"), std::string::npos) << error;
  EXPECT_EQ(error_of("llama", {{"model_type", ""}}), "key 'model_type': is missing");
}

TEST(Frontend, keys_that_would_change_the_result_are_refused) {
  EXPECT_EQ(
      error_of("mixtral", {{"logits_scaling", "3.0"}}),
      "key 'logits_scaling' is not understood by family 'mixtral' and could change the result");
  EXPECT_NE(error_of("mixtral", {{"attention_bias", "true"}})
                .find("key 'attention_bias' is not understood"),
            std::string::npos);
  EXPECT_NE(error_of("llama", {{"rope_parameters",
                                R"({"rope_type": "default", "rope_theta": 1e4, "mscale": 2})"}})
                .find("key 'rope_parameters.mscale' is not understood"),
            std::string::npos);
  EXPECT_NE(error_of("llama", {{"partial_rotary_factor", "0.5"}}).find("'partial_rotary_factor'"),
            std::string::npos);
}

TEST(Frontend, unsupported_values_are_refused) {
  EXPECT_NE(
      error_of("llama", {{"hidden_act", "\"relu2\""}}).find("key 'hidden_act': is none of silu"),
      std::string::npos);
  EXPECT_NE(error_of("llama", {{"rope_parameters",
                                R"({"rope_type": "spiral", "rope_theta": 1e4, "factor": 2})"}})
                .find("key 'rope_parameters.rope_type': is none of default, linear"),
            std::string::npos);
  EXPECT_NE(error_of("llama", {{"rope_parameters", ""},
                               {"rope_scaling", R"({"type": "spiral", "factor": 2})"}})
                .find("key 'rope_scaling.type'"),
            std::string::npos);
  EXPECT_NE(
      error_of("llama", {{"rope_theta", "5e5"}}).find("differs from rope_parameters.rope_theta"),
      std::string::npos);
  EXPECT_NE(error_of("llama", {{"dtype", "\"float8_e4m3fn\""}}).find("key 'dtype'"),
            std::string::npos);
  EXPECT_NE(error_of("qwen3_moe", {{"use_sliding_window", "true"},
                                   {"sliding_window", "8"},
                                   {"max_window_layers", "1"}})
                .find("key 'max_window_layers'"),
            std::string::npos);
}

TEST(Frontend, impossible_sizes_are_refused) {
  EXPECT_NE(error_of("mixtral", {{"num_key_value_heads", "3"}})
                .find("3 does not divide the 4 attention heads"),
            std::string::npos);
  EXPECT_NE(error_of("mixtral", {{"num_attention_heads", "3"}, {"num_key_value_heads", "3"}})
                .find("64 is no multiple of the 3 attention heads"),
            std::string::npos);
  EXPECT_NE(error_of("mixtral", {{"head_dim", "15"}}).find("15 is odd"), std::string::npos);
  EXPECT_NE(
      error_of("mixtral", {{"num_experts_per_tok", "9"}}).find("9 is more than the 8 experts"),
      std::string::npos);
  EXPECT_NE(
      error_of("mixtral", {{"num_hidden_layers", "1000000000"}}).find("is outside 1 ... 4096"),
      std::string::npos);
  EXPECT_NE(error_of("mixtral", {{"hidden_size", "-64"}}).find("key 'hidden_size': -64 is outside"),
            std::string::npos);
  EXPECT_EQ(error_of("mixtral", {{"vocab_size", ""}}), "key 'vocab_size': is missing");
  EXPECT_NE(error_of("qwen3_moe", {{"mlp_only_layers", "[0]"}, {"intermediate_size", ""}})
                .find("'intermediate_size'"),
            std::string::npos);
}

TEST(Frontend, limits_have_documented_defaults) {
  const FrontendLimits l = import_edited("mixtral", {{"max_position_embeddings", "100000"}}).limits;
  EXPECT_EQ(l.max_model_len, 8192);
  EXPECT_EQ(l.max_num_seqs, 64);
  EXPECT_EQ(l.max_num_batched_tokens, 2048);
  EXPECT_EQ(l.max_logit_rows, 64);
  EXPECT_EQ(import_edited("mixtral", {}).limits.max_model_len, 512);
  FrontendOptions o;
  o.max_num_batched_tokens = 16;
  EXPECT_EQ(import_edited("mixtral", {}, o).limits.max_num_seqs, 16);
}

TEST(Frontend, limits_are_checked) {
  const auto error = [](auto set) {
    FrontendOptions o;
    set(o);
    return user_error_of([&] { import_edited("mixtral", {}, o); });
  };
  EXPECT_NE(
      error([](auto& o) { o.max_model_len = 513; }).find("513 is more than the 512 positions"),
      std::string::npos);
  EXPECT_NE(error([](auto& o) { o.max_num_seqs = -1; }).find("max-num-seqs"), std::string::npos);
  EXPECT_NE(error([](auto& o) { o.page_size = 0; }).find("page-size"), std::string::npos);
  EXPECT_NE(error([](auto& o) {
              o.max_num_seqs = 8, o.max_num_batched_tokens = 4;
            }).find("less than max-num-seqs 8"),
            std::string::npos);
  EXPECT_NE(error([](auto& o) { o.dtype = "fp8"; }).find("dtype 'fp8'"), std::string::npos);
}

TEST(Frontend, activation_type) {
  FrontendOptions cpu, f16, f32;
  cpu.cpu = true;
  f16.dtype = "f16";
  f32.dtype = "f32";
  EXPECT_EQ(import_edited("llama", {}).activation, DType::bf16);
  EXPECT_EQ(import_edited("llama", {}, cpu).activation, DType::f32);
  EXPECT_EQ(import_edited("llama", {}, f16).activation, DType::f16);
  EXPECT_EQ(import_edited("llama", {{"dtype", "\"float16\""}}).activation, DType::f16);
  EXPECT_EQ(import_edited("llama", {{"dtype", "\"float32\""}}).activation, DType::bf16);
  const ImportedModel model = import_edited("llama", {}, f32);
  EXPECT_EQ(model.module->find_state("l0.k")->type.to_string(), "f32[2, 16]");
  EXPECT_EQ(model.module->find_param("l0.q_proj")->type.to_string(), "bf16[64, 64]");
}

TEST(Frontend, dummy_weights_follow_the_config) {
  const ImportedModel model =
      import_edited("mixtral", {{"initializer_range", "0.5"}, {"dtype", "\"float16\""}});
  std::set<int64_t> seeds;
  int norms = 0;
  for (const auto& op : model.module->find_graph("load")->ops) {
    if (op->kind != ir::OpKind::dummy) continue;
    const auto& a = op->as<ir::DummyAttrs>();
    EXPECT_TRUE(seeds.insert(a.seed).second);
    EXPECT_EQ(a.dtype, DType::f16);
    const bool norm = a.shape.size() == 1;
    norms += norm;
    EXPECT_EQ(a.mean, norm ? 1 : 0);
    EXPECT_EQ(a.stddev, norm ? 0 : 0.5);
  }
  EXPECT_EQ(norms, 5);
}

TEST(Frontend, facts_and_ids) {
  const ModelDir dir(config_of(
      "qwen3_moe",
      {{"eos_token_id", "[5, 3, 1000000]"}, {"bos_token_id", "7"}, {"mlp_only_layers", "[1]"}}));
  dir.write("generation_config.json", R"({"eos_token_id": 9, "temperature": 0.6})");
  const ModelFacts f = dir.import_dummy().facts;
  EXPECT_EQ(f.name, "qwen3_moe");
  EXPECT_EQ(f.vocab_size, 128);
  EXPECT_EQ(f.eos_ids, (std::vector<int64_t>{3, 5, 9}));
  EXPECT_EQ(f.bos_id, 7);
  EXPECT_EQ(f.layers, 2);
  EXPECT_EQ(f.moe_layers, 1);
  EXPECT_EQ(f.experts, 8);
  EXPECT_EQ(f.experts_per_token, 2);
  dir.write("generation_config.json", "{");
  EXPECT_NE(user_error_of([&] { dir.import_dummy(); }).find("generation_config.json"),
            std::string::npos);
}

TEST(Frontend, ignored_keys_are_said) {
  const ImportedModel model = import_edited("llama", {{"auto_map", R"({"AutoModel": "evil.py"})"}});
  EXPECT_EQ(model.ignored_keys, (std::vector<std::string>{"auto_map"}));
  ASSERT_EQ(model.warnings.size(), 1u);
  EXPECT_NE(model.warnings[0].find("config.json: ignored: auto_map"), std::string::npos);
}

TEST(Frontend, force_routing_adds_an_input_a_moe_layer) {
  FrontendOptions o;
  o.force_routing = true;
  const ImportedModel model = import_edited("qwen3_moe", {{"mlp_only_layers", "[0]"}}, o);
  const ir::Graph& step = *model.module->find_graph("step");
  ASSERT_NE(step.find_input("forced.0"), nullptr);
  EXPECT_EQ(step.find_input("forced.0")->type.to_string(), "i32[T, 2]");
  EXPECT_EQ(step.find_input("forced.1"), nullptr);
  EXPECT_NE(ir::print(*model.module).find("topk_gate %router_logits.0, none, %forced.0"),
            std::string::npos);
}

TEST(Frontend, options_of_the_families_reach_the_graph) {
  const auto text = [](const std::string& name, const std::map<std::string, std::string>& edits) {
    const ImportedModel model = import_edited(name, edits);
    ir::verify(*model.module);
    return ir::print(*model.module);
  };
  const std::string clipped = text("olmoe", {{"clip_qkv", "8.0"}});
  EXPECT_NE(clipped.find("%l1.q_clip = pointwise %l1.q_norm {expr = \"clamp(x0, -8, 8)\"}"),
            std::string::npos);
  EXPECT_NE(clipped.find("%l1.v_clip"), std::string::npos);
  const std::string biased = text("llama", {{"attention_bias", "true"}, {"mlp_bias", "true"}});
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj", "gate", "up", "down"}) {
    EXPECT_NE(biased.find(fmt::format("%l0.{0} = pointwise %l0.{0}_matmul, @l0.{0}_bias", name)),
              std::string::npos);
  }
  EXPECT_NE(text("qwen3_moe", {{"norm_topk_prob", "false"}}).find("{k = 2} : f32[T, 2]"),
            std::string::npos);
  EXPECT_NE(text("qwen3_moe", {}).find("{k = 2, norm = sum} : f32[T, 2]"), std::string::npos);
  const std::string window =
      text("qwen3_moe", {{"use_sliding_window", "true"},
                         {"sliding_window", "8"},
                         {"layer_types", R"(["sliding_attention", "full_attention"])"}});
  EXPECT_NE(window.find("@l0.k, @l0.v, none {scale = 0.17677669529663687, window = 8}"),
            std::string::npos);
  EXPECT_NE(window.find("@l1.k, @l1.v, none {scale = 0.17677669529663687}"), std::string::npos);
  EXPECT_EQ(text("qwen3_moe", {{"sliding_window", "8"}}).find("window ="), std::string::npos);
  EXPECT_NE(text("qwen3_moe", {{"decoder_sparse_step", "2"}}).find("linear %l0.mlp_norm, @l0.gate"),
            std::string::npos);
}

TEST(Frontend, the_largest_number_of_layers_stays_cheap) {
  const ImportedModel model = import_edited("mixtral", {{"num_hidden_layers", "4096"}});
  EXPECT_EQ(model.facts.layers, 4096);
}

}  // namespace
}  // namespace shunt
