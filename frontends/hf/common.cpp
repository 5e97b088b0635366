// Readers shared by the families. Entry points: read_decoder, read_layer, read_moe. Tested by
// tests/frontends/families_test.cpp and rope_test.cpp.
#include "frontends/hf/common.h"

#include <cmath>
#include <set>
#include <utility>

#include "ir/error.h"

namespace shunt::hf {

DType read_dtype(const Config& config, DType fallback) {
  const std::string text = config.text_or({"dtype", "torch_dtype"}, "");
  const std::string name = text.starts_with("torch.") ? text.substr(6) : text;
  if (name.empty()) return fallback;
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float32") return DType::f32;
  config.fail(config.has("dtype") ? "dtype" : "torch_dtype",
              "is none of bfloat16, float16 and float32, which Shunt reads");
}

int64_t read_layer_count(const Config& config) {
  return config.integer({"num_hidden_layers", "n_layer", "num_layers", "n_layers"}, 1, kMaxLayers);
}

Architecture read_decoder(const Config& config, const FamilyDefaults& defaults) {
  Architecture a;
  a.quantization = read_quantization(config);
  a.vocab_size = config.integer({"vocab_size"}, 1, kMaxVocab);
  a.hidden_size =
      config.integer({"hidden_size", "n_embd", "n_embed", "d_model", "dim"}, 1, kMaxHidden);
  a.max_positions = config.integer_or({"max_position_embeddings", "n_positions", "max_seq_len"},
                                      defaults.max_positions, 1, kMaxPositions);
  a.tied_embeddings = config.boolean_or({"tie_word_embeddings"}, defaults.tied_embeddings);
  const double eps =
      config.number_or({"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"},
                       defaults.norm_eps, {0, 1});
  a.final_norm = Norm{defaults.norm, eps, false, defaults.norm_bias};
  a.init_stddev = config.number_or({"initializer_range", "init_std"}, 0.02, {0, 100});
  a.config_dtype = read_dtype(config, DType::bf16);
  return a;
}

Layer read_layer_without_rope(const Config& config, const Architecture& decoder,
                              const FamilyDefaults& defaults) {
  Layer layer;
  layer.attention_norm = layer.mlp_norm = decoder.final_norm;
  Attention& a = layer.attention;
  a.heads = config.integer({"num_attention_heads", "n_head", "num_heads", "n_heads"}, 1, kMaxHeads);
  const int64_t kv_heads = defaults.kv_heads == 0 ? a.heads : defaults.kv_heads;
  a.kv_heads = config.integer_or({"num_key_value_heads"}, kv_heads, 1, kMaxHeads);
  if (a.heads % a.kv_heads != 0) {
    config.fail("num_key_value_heads",
                fmt::format("{} does not divide the {} attention heads", a.kv_heads, a.heads));
  }
  a.head_dim = config.integer_or({"head_dim"}, defaults.head_dim, 1, kMaxHeadDim);
  if (a.head_dim == 0) {
    if (decoder.hidden_size % a.heads != 0) {
      config.fail(
          "hidden_size",
          fmt::format("{} is no multiple of the {} attention heads, and head_dim is not given",
                      decoder.hidden_size, a.heads));
    }
    a.head_dim = decoder.hidden_size / a.heads;
  }
  if (a.head_dim > kMaxHeadDim || a.heads * a.head_dim > kMaxWidth) {
    config.fail("num_attention_heads",
                fmt::format("{} heads of {} are too wide", a.heads, a.head_dim));
  }
  a.qk_norm.eps = decoder.final_norm->eps;
  a.scale = 1 / std::sqrt(static_cast<double>(a.head_dim));
  return layer;
}

Layer read_layer(const Config& config, const Architecture& decoder,
                 const FamilyDefaults& defaults) {
  Layer layer = read_layer_without_rope(config, decoder, defaults);
  layer.attention.rope = read_rope(config, decoder, layer.attention.head_dim, defaults);
  return layer;
}

Layer read_latent_layer(const Config& config, const Architecture& decoder,
                        const FamilyDefaults& defaults) {
  Layer layer;
  layer.attention_norm = layer.mlp_norm = decoder.final_norm;
  Attention& a = layer.attention;
  a.heads = config.integer({"num_attention_heads"}, 1, kMaxHeads);
  a.kv_heads = config.integer_or({"num_key_value_heads"}, a.heads, 1, kMaxHeads);
  if (a.kv_heads != a.heads) {
    config.fail("num_key_value_heads",
                "differs from num_attention_heads, which latent attention "
                "does not allow");
  }
  LatentAttention latent;
  latent.q_rank = config.integer_or({"q_lora_rank"}, 0, 1, kMaxWidth);
  latent.kv_rank = config.integer_or({"kv_lora_rank"}, 512, 1, kMaxWidth);
  latent.nope_dim = config.integer_or({"qk_nope_head_dim"}, 128, 1, kMaxHeadDim);
  latent.value_dim = config.integer_or({"v_head_dim"}, 128, 1, kMaxHeadDim);
  latent.norm.eps = 1e-6;  // whatever rms_norm_eps says
  const int64_t rope_dim = config.integer_or({"qk_rope_head_dim"}, 64, 2, kMaxHeadDim);
  a.head_dim = latent.nope_dim + rope_dim;
  // Both follow from the others.
  const int64_t written = config.integer_or({"qk_head_dim"}, a.head_dim, 1, 2 * kMaxHeadDim);
  if (written != a.head_dim)
    config.fail("qk_head_dim", "is not qk_nope_head_dim + qk_rope_head_dim");
  config.integer_or({"head_dim"}, rope_dim, 1, kMaxHeadDim);
  a.latent = latent;
  a.qkv_bias = a.o_bias = config.boolean_or({"attention_bias"}, false);
  a.rope = read_rope(config, decoder, rope_dim, defaults);
  a.rope->interleaved = true;
  a.scale = 1 / std::sqrt(static_cast<double>(a.head_dim));
  if (a.rope->mscale_all_dim != 0 && a.rope->scaling == Rope::Scaling::yarn) {
    const double m =
        a.rope->factor <= 1 ? 1 : 0.1 * a.rope->mscale_all_dim * std::log(a.rope->factor) + 1;
    a.scale *= m * m;
  }
  return layer;
}

void read_attention_bias(const Config& config, Attention& attention, bool fallback) {
  attention.qkv_bias = attention.o_bias = config.boolean_or({"attention_bias"}, fallback);
}

std::string activation_named(const Config& config, const char* key, const std::string& name) {
  if (name == "silu" || name == "swish") return "silu";
  if (name == "gelu" || name == "relu" || name == "quick_gelu") return name;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return "gelu_tanh";
  if (name == "gelu_python") return "gelu";
  config.fail(key, "is none of silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu and relu");
}

std::string read_activation(const Config& config, const char* fallback) {
  return activation_named(
      config, "hidden_act",
      config.text_or({"hidden_act", "hidden_activation", "activation_function", "activation"},
                     fallback));
}

DenseMlp read_dense(const Config& config, const FamilyDefaults& defaults) {
  DenseMlp mlp;
  mlp.width = config.integer({"intermediate_size"}, 1, kMaxWidth);
  mlp.activation = read_activation(config, defaults.activation);
  return mlp;
}

int64_t read_window(const Config& config, int64_t fallback) {
  return config.integer_or({"sliding_window"}, fallback, 0, kMaxPositions);
}

void apply_window(const Config& config, int64_t window, std::vector<Layer>& layers) {
  const std::vector<std::string> types = config.texts({"layer_types"});
  if (types.empty()) {
    for (Layer& layer : layers) layer.attention.window = window;
    return;
  }
  if (types.size() != layers.size()) {
    config.fail("layer_types",
                fmt::format("has {} entries for {} layers", types.size(), layers.size()));
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    const bool sliding = types[i] == "sliding_attention";
    if (!sliding && types[i] != "full_attention") {
      config.fail("layer_types",
                  "has an entry that is neither full_attention nor sliding_attention");
    }
    if (sliding && window == 0)
      config.fail("layer_types", "says sliding_attention, but no sliding_window is in use");
    layers[i].attention.window = sliding ? window : 0;
  }
}

void apply_qwen_window(const Config& config, std::vector<Layer>& layers) {
  const int64_t window = read_window(config, 4096);
  const int64_t first = config.integer_or({"max_window_layers"}, 28, 0, kMaxPositions);
  const bool used = config.boolean_or({"use_sliding_window"}, false) && window > 0;
  if (config.has("layer_types")) return apply_window(config, used ? window : 0, layers);
  for (size_t i = 0; used && i < layers.size(); ++i) {
    if (static_cast<int64_t>(i) >= first) layers[i].attention.window = window;
  }
}

MoeMlp read_moe(const Config& config, const char* width_key) {
  MoeMlp moe;
  moe.experts = config.integer(
      {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}, 1, kMaxExperts);
  const Config::Keys k_keys = {"num_experts_per_tok", "moe_k",     "moe_topk",
                               "experts_per_token",   "moe_top_k", "top_k_experts"};
  moe.gate.k = config.integer(k_keys, 1, kMaxExperts);
  if (moe.gate.k > moe.experts) {
    config.fail("num_experts_per_tok",
                fmt::format("{} is more than the {} experts", moe.gate.k, moe.experts));
  }
  moe.width = config.integer({width_key}, 1, kMaxWidth);
  moe.activation = read_activation(config);
  return moe;
}

void read_deepseek_moe(const Config& config, Layer layer, Architecture& a,
                       const DeepseekDefaults& defaults) {
  MoeMlp moe = read_moe(config, "moe_intermediate_size");
  moe.gate.score = ir::ScoreFunction::sigmoid;
  moe.gate.norm = config.boolean_or({"norm_topk_prob"}, defaults.norm_topk) ? ir::RouteNorm::sum
                                                                            : ir::RouteNorm::none;
  if (moe.gate.norm == ir::RouteNorm::sum) moe.gate.norm_eps = 1e-20;
  moe.gate.scale = config.number_or({"routed_scaling_factor"}, 1, {1e-6, 1e6});
  moe.gate.groups = config.integer_or({"n_group"}, 1, 1, kMaxExperts);
  moe.gate.keep_groups = config.integer_or({"topk_group"}, 1, 1, kMaxExperts);
  // With all groups kept, their scores decide nothing.
  if (moe.gate.groups == moe.gate.keep_groups) moe.gate.groups = moe.gate.keep_groups = 1;
  if (moe.gate.groups > 1) {
    moe.gate.group_score = ir::GroupScore::top2_sum;
    if (moe.experts % moe.gate.groups != 0 || moe.experts / moe.gate.groups < 2 ||
        moe.gate.keep_groups > moe.gate.groups ||
        moe.gate.k > moe.experts / moe.gate.groups * moe.gate.keep_groups) {
      config.fail("n_group",
                  fmt::format("{} groups, {} of them kept, do not fit {} experts of which "
                              "{} are chosen",
                              moe.gate.groups, moe.gate.keep_groups, moe.experts, moe.gate.k));
    }
  }
  moe.selection_bias = true;
  const int64_t shared =
      config.integer_or({"n_shared_experts", "moe_num_shared_experts", "num_shared_experts"},
                        defaults.shared, 0, kMaxExperts);
  if (shared > 0) moe.shared = DenseMlp{moe.width * shared, moe.activation, true, false};
  const int64_t layers = read_layer_count(config);
  const int64_t first =
      config.integer_or({"first_k_dense_replace"}, defaults.dense_layers, 0, kMaxLayers);
  const int64_t every = config.integer_or({"moe_layer_freq"}, 1, 1, kMaxLayers);
  DenseMlp dense;
  dense.activation = moe.activation;
  dense.width = config.integer({"intermediate_size"}, 1, kMaxWidth);
  for (int64_t i = 0; i < layers; ++i) {
    if (i >= first && i % every == 0) {
      layer.mlp = moe;
    } else {
      layer.mlp = dense;
    }
    a.layers.push_back(layer);
  }
  a.names.moe = usual_expert_names("mlp");
  for (MoeNames& names : a.names.moe) names.selection_bias = "mlp.gate.e_score_correction_bias";
  a.names.shared = mlp_names("mlp.shared_experts");
}

void read_sparse_layers(const Config& config, Layer layer, const MoeMlp& moe, Architecture& a) {
  DenseMlp dense;
  dense.activation = moe.activation;
  const int64_t layers = read_layer_count(config);
  const int64_t step = config.integer_or({"decoder_sparse_step"}, 1, 1, kMaxLayers);
  const std::vector<int64_t> listed = config.integers({"mlp_only_layers"});
  const std::set<int64_t> dense_layers(listed.begin(), listed.end());
  const bool any_dense = step > 1 || !dense_layers.empty();
  dense.width = any_dense ? config.integer({"intermediate_size"}, 1, kMaxWidth)
                          : config.integer_or({"intermediate_size"}, 0, 0, kMaxWidth);
  for (int64_t i = 0; i < layers; ++i) {
    if (dense_layers.contains(i) || (i + 1) % step != 0) {
      layer.mlp = dense;
    } else {
      layer.mlp = moe;
    }
    a.layers.push_back(layer);
  }
}

void ignore_extra_layers(const Config& config, const char* key, Architecture& a) {
  const int64_t extra = config.integer_or({key}, 0, 0, kMaxLayers);
  const auto first = static_cast<int64_t>(a.layers.size());
  for (int64_t i = first; i < first + extra; ++i)
    a.ignored_prefixes.push_back(fmt::format("{}{}.", a.names.layer, i));
}

std::vector<double> alibi_slopes(int64_t heads, bool rounded) {
  int64_t power = 1;
  while (2 * power <= heads) power *= 2;
  const auto base = [](int64_t n) {
    return static_cast<float>(std::pow(2.0, -std::pow(2.0, -(std::log2(n) - 3))));
  };
  std::vector<double> slopes;
  for (int64_t i = 1; i <= power; ++i)
    slopes.push_back(std::pow(base(power), static_cast<float>(i)));
  // The heads beyond a power of two take every second slope of the next one.
  for (int64_t i = 1; static_cast<int64_t>(slopes.size()) < heads; i += 2)
    slopes.push_back(std::pow(base(2 * power), static_cast<float>(i)));
  if (rounded) {
    for (double& slope : slopes) slope = f32_from_bf16(bf16_from_f32(static_cast<float>(slope)));
  }
  return slopes;
}

MoeNames fused_expert_names(const std::string& module) {
  MoeNames names;
  names.module = module;
  names.router = module + ".gate.weight";
  names.gate_up = module + ".experts.gate_up_proj";
  names.down = module + ".experts.down_proj";
  return names;
}

MoeNames expert_names(const std::string& module, const char* gate, const char* up,
                      const char* down) {
  MoeNames names;
  names.module = module;
  names.router = module + ".gate.weight";
  names.gate = fmt::format("{}.experts.*.{}.weight", module, gate);
  names.up = fmt::format("{}.experts.*.{}.weight", module, up);
  names.down = fmt::format("{}.experts.*.{}.weight", module, down);
  return names;
}

std::vector<MoeNames> usual_expert_names(const std::string& module) {
  return {expert_names(module, "gate_proj", "up_proj", "down_proj"), fused_expert_names(module)};
}

MlpNames mlp_names(const std::string& module) {
  return {module + ".gate_proj", module + ".up_proj", module + ".down_proj", ""};
}

}  // namespace shunt::hf
