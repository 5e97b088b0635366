// random_config(): keys that a family's config in tests/data/conformance has get other values. A
// key means the same wherever it stands, so the values come from one table; what ties keys of one
// family together stands in a function of its own.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "frontends/hf/registry.h"
#include "tests/meshes/family_keys.h"
#include "tests/meshes/random_model.h"

namespace shunt {

using nlohmann::json;

namespace {

using Keys = std::initializer_list<const char*>;

class ConfigDraw {
 public:
  ConfigDraw(const std::string& family, Dice& dice)
      : family_(family), dice_(dice), c_(json::parse(test_data(file_of(family)))) {}

  json draw() {
    sizes();
    widths();
    switches();
    routing();
    windows();
    draw_family_keys(family_, n_, dice_, c_);
    if (family_ != "deepspeed") quantise();
    return c_;
  }

 private:
  static std::string file_of(const std::string& family) {
    return family == "deepspeed" ? "deepspeed/top2_residual/ds_inference_config.json"
                                 : "conformance/" + family + "/config.json";
  }
  bool has(const char* key) const { return c_.contains(key); }
  /// The same value for all spellings of a key that the config has.
  template <class T>
  void set(Keys keys, const T& value) {
    for (const char* key : keys) {
      if (has(key)) c_[key] = value;
    }
  }

  void sizes() {
    n_.layers = dice_.number(1, 3);
    n_.kv_heads = dice_.number(1, 5);
    const int64_t group = has("num_key_value_heads") || has("num_kv_heads") || family_ == "dbrx"
                              ? dice_.number(1, n_.kv_heads < 3 ? 5 : 2)
                              : 1;
    n_.heads = n_.kv_heads * group;
    const bool rotates = has("rope_parameters") || family_ == "gptj" || family_ == "deepspeed";
    n_.head_dim = rotates ? 4 * dice_.number(1, 5) : dice_.number(1, 20);
    if (has("partial_rotary_factor") ||
        c_.value("rope_parameters", json()).contains("partial_rotary_factor")) {
      const double share = family_ == "phi3" ? 1 : dice_.one_of({0.5, 1.0});
      set({"partial_rotary_factor"}, share);
      if (c_["rope_parameters"].contains("partial_rotary_factor"))
        c_["rope_parameters"]["partial_rotary_factor"] = share;
    }
    if (family_ == "qwen3_next" || family_ == "minimax_m2") n_.head_dim = 8 * dice_.number(1, 3);
    const bool free = has("head_dim");  // else heads share the hidden size
    n_.hidden = free ? dice_.number(6, 48) : n_.heads * n_.head_dim;
    if (has("kv_lora_rank")) {
      latent();
    } else {
      set({"head_dim"}, n_.head_dim);
    }
    if (rotates) set({"rotary_dim"}, 2 * dice_.number(1, n_.head_dim / 2));
    set({"num_attention_heads", "n_head", "n_heads", "num_heads", "heads"}, n_.heads);
    set({"num_key_value_heads", "num_kv_heads"}, n_.kv_heads);
    set({"num_hidden_layers", "n_layer", "n_layers", "num_layers"}, n_.layers);
    set({"hidden_size", "n_embd", "d_model", "dim"}, n_.hidden);
    set({"query_pre_attn_scalar"}, dice_.number(4, 20));
    set({"vocab_size"}, dice_.one_in(10) ? dice_.number(200, 700) : dice_.number(5, 90));
    set({"initializer_range"}, 0.3);
  }

  /// Sizes of DeepSeek's heads: every head has keys of its own.
  void latent() {
    n_.kv_heads = n_.heads = dice_.number(1, 6);
    const int64_t nope = dice_.number(1, 12), rope = 2 * dice_.number(1, 4);
    n_.hidden = dice_.number(6, 48);
    c_["qk_nope_head_dim"] = nope;
    c_["qk_rope_head_dim"] = c_["head_dim"] = rope;
    c_["qk_head_dim"] = nope + rope;
    c_["v_head_dim"] = dice_.number(1, 12);
    c_["kv_lora_rank"] = dice_.number(1, 24);
    c_["q_lora_rank"] = dice_.coin() ? json(dice_.number(1, 24)) : json();
  }

  /// Each its own: none has to divide by anything.
  void widths() {
    for (const char* key :
         {"intermediate_size", "hidden_dim", "ffn_dim", "ffn_hidden_size", "n_inner",
          "intermediate_size_mlp", "moe_intermediate_size", "shared_intermediate_size",
          "shared_expert_intermediate_size", "word_embed_proj_dim"}) {
      set({key}, dice_.one_in(10) ? dice_.number(200, 700) : dice_.number(1, 56));
    }
    if (dice_.one_in(3)) set({"word_embed_proj_dim"}, n_.hidden);
    set({"conv_L_cache", "linear_conv_kernel_dim"}, dice_.number(2, 5));
  }

  /// mxfp4 where rows are whole groups of 32; fp8 in blocks that need not divide anything.
  void quantise() {
    if (family_ == "gpt_oss" && dice_.coin()) {
      c_["hidden_size"] = 32 * dice_.number(1, 2);
      c_["intermediate_size"] = 32 * dice_.number(1, 3);
      c_["quantization_config"] = {{"quant_method", "mxfp4"}};
    } else if (dice_.one_in(4)) {
      c_["quantization_config"] = {
          {"quant_method", "fp8"},
          {"weight_block_size", {dice_.number(1, 24), dice_.number(1, 24)}}};
    }
  }

  void switches() {
    for (const char* key : {"attention_bias",
                            "mlp_bias",
                            "use_bias",
                            "bias",
                            "enable_bias",
                            "qkv_bias",
                            "lm_head_bias",
                            "tie_word_embeddings",
                            "norm_topk_prob",
                            "qk_layernorm",
                            "alibi",
                            "multi_query",
                            "new_decoder_architecture",
                            "parallel_attn",
                            "use_parallel_residual",
                            "do_layer_norm_before",
                            "_remove_final_layer_norm",
                            "scale_attn_weights",
                            "scale_attn_by_inverse_layer_idx",
                            "apply_residual_connection_post_layernorm",
                            "conv_bias",
                            "use_expert_bias",
                            "rope_interleave",
                            "use_qk_norm",
                            "attn_temperature_tuning"}) {
      if (has(key)) c_[key] = dice_.coin();
    }
    if (family_ == "deepseek_v2") c_["mlp_bias"] = false;  // which the family does not have
    if (family_ != "gpt_oss") {
      set({"hidden_act", "hidden_activation", "activation_function", "activation"},
          dice_.one_of<std::string>({"silu", "gelu", "gelu_new", "relu"}));
    }
    set({"clip_qkv"}, dice_.coin() ? json(0.5) : json());
    set({"attn_logit_softcapping", "final_logit_softcapping"}, dice_.coin() ? json(5.0) : json());
    set({"embedding_multiplier", "logits_scaling"}, 0.25 * static_cast<double>(dice_.number(2, 9)));
    set({"residual_multiplier"}, dice_.one_of({0.5, 1.0}));
    set({"attention_multiplier"}, 0.3);
  }

  void routing() {
    n_.experts = family_ == "phimoe" ? dice_.number(2, 9) : dice_.number(1, 9);
    int64_t most = n_.experts;
    set({"n_group", "topk_group"}, 1);
    if (has("n_group") && dice_.coin()) {
      const int64_t groups = dice_.number(2, 3), keep = dice_.number(1, groups);
      n_.experts = groups * dice_.number(2, 4);
      most = n_.experts / groups * keep;
      c_["n_group"] = groups;
      c_["topk_group"] = keep;
      set({"topk_method"},
          family_ == "deepseek_v2" ? "group_limited_greedy" : c_.value("topk_method", ""));
    }
    n_.k = family_ == "phimoe" ? 2 : dice_.number(1, std::min<int64_t>(most, 4));
    set({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}, n_.experts);
    set({"num_experts_per_tok", "moe_k", "moe_topk"}, n_.k);
    set({"n_shared_experts", "moe_num_shared_experts"}, dice_.number(0, 2));
    set({"routed_scaling_factor"}, dice_.one_of({0.5, 1.0, 2.5}));
    set({"moe_norm_min"}, dice_.one_of({1e-12, 0.5}));
    set({"first_k_dense_replace", "num_dense_layers"}, dice_.number(0, n_.layers));
    set({"decoder_sparse_step", "moe_layer_interval"}, dice_.number(1, 2));
    set({"moe_layer_start_index"}, dice_.number(0, 1));
    set({"moe_layer_end_index"}, dice_.number(0, n_.layers - 1));
    if (has("mlp_only_layers")) c_["mlp_only_layers"] = some_layers(n_.layers, 4, dice_);
  }

  void windows() {
    const bool always = family_ == "gemma2" || family_ == "gpt_oss" || family_ == "dots1";
    const bool window = always || dice_.coin();
    set({"use_sliding_window"}, window);
    set({"sliding_window"}, window ? json(dice_.number(1, 9)) : json());
    set({"max_window_layers"}, dice_.number(0, n_.layers));
    if (window && has("sliding_window")) {
      set({"layer_types"}, of_layers(n_.layers, {"full_attention", "sliding_attention"}, dice_));
    } else {
      set({"layer_types"}, of_layers(n_.layers, {"full_attention"}, dice_));
    }
  }

  const std::string family_;
  Dice& dice_;
  json c_;
  DrawnSizes n_;
};

}  // namespace

std::vector<std::string> random_families() {
  std::vector<std::string> names;
  for (const hf::Family& family : hf::all_families()) names.emplace_back(family.model_type);
  names.push_back("deepspeed");
  return names;
}

std::string random_config(const std::string& family, Dice& dice) {
  return ConfigDraw(family, dice).draw().dump();
}

}  // namespace shunt
