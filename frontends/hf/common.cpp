// Readers shared by the families. Entry points: read_decoder, read_layer, read_moe. Tested by
// tests/frontends/families_test.cpp and rope_test.cpp.
#include "frontends/hf/common.h"

#include <cmath>

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
  return config.integer({"num_hidden_layers"}, 1, kMaxLayers);
}

Architecture read_decoder(const Config& config, const FamilyDefaults& defaults) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (config.has(key)) {
      config.fail(key,
                  "quantised checkpoints are not supported; use the bf16, f16 or f32 original");
    }
  }
  Architecture a;
  a.vocab_size = config.integer({"vocab_size"}, 1, kMaxVocab);
  a.hidden_size = config.integer({"hidden_size"}, 1, kMaxHidden);
  a.max_positions =
      config.integer_or({"max_position_embeddings"}, defaults.max_positions, 1, kMaxPositions);
  a.tied_embeddings = config.boolean_or({"tie_word_embeddings"}, defaults.tied_embeddings);
  a.final_norm.eps = config.number_or({"rms_norm_eps"}, defaults.norm_eps, {0, 1});
  a.init_stddev = config.number_or({"initializer_range"}, 0.02, {0, 100});
  a.config_dtype = read_dtype(config, DType::bf16);
  return a;
}

Layer read_layer(const Config& config, const Architecture& decoder,
                 const FamilyDefaults& defaults) {
  Layer layer;
  layer.attention_norm = layer.mlp_norm = decoder.final_norm;
  Attention& a = layer.attention;
  a.heads = config.integer({"num_attention_heads"}, 1, kMaxHeads);
  const int64_t kv_heads = defaults.kv_heads == 0 ? a.heads : defaults.kv_heads;
  a.kv_heads = config.integer_or({"num_key_value_heads"}, kv_heads, 1, kMaxHeads);
  if (a.heads % a.kv_heads != 0) {
    config.fail("num_key_value_heads",
                fmt::format("{} does not divide the {} attention heads", a.kv_heads, a.heads));
  }
  a.head_dim = config.integer_or({"head_dim"}, 0, 1, kMaxHeadDim);
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
  a.qk_norm_eps = decoder.final_norm.eps;
  a.scale = 1 / std::sqrt(static_cast<double>(a.head_dim));
  a.rope = read_rope(config, a.head_dim, defaults.rope_theta);
  return layer;
}

std::string read_activation(const Config& config) {
  const std::string name = config.text_or({"hidden_act", "hidden_activation"}, "silu");
  if (name == "silu" || name == "swish") return "silu";
  if (name == "gelu" || name == "relu" || name == "quick_gelu") return name;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return "gelu_tanh";
  config.fail("hidden_act",
              "is none of silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu and relu");
}

namespace {

void read_llama3_scaling(const Config& scaling, Rope& rope) {
  rope.low_freq_factor = scaling.number({"low_freq_factor"}, {1e-6, 1e6});
  rope.high_freq_factor = scaling.number({"high_freq_factor"}, {1e-6, 1e6});
  rope.original_positions = scaling.integer({"original_max_position_embeddings"}, 1, kMaxPositions);
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    scaling.fail("high_freq_factor", "is not larger than low_freq_factor");
  }
}

void read_scaling(const Config& scaling, Rope& rope) {
  const std::string type = scaling.text_or({"rope_type", "type"}, "default");
  if (scaling.number_or({"partial_rotary_factor"}, 1, {0, 1}) != 1) {
    scaling.fail("partial_rotary_factor", "is not supported for this family");
  }
  if (type == "default") return;
  if (type != "linear" && type != "llama3") {
    scaling.fail(scaling.has("rope_type") ? "rope_type" : "type",
                 "is none of default, linear and llama3, which Shunt supports");
  }
  rope.scaling = type == "linear" ? Rope::Scaling::linear : Rope::Scaling::llama3;
  rope.factor = scaling.number({"factor"}, {1e-6, 1e6});
  if (type == "llama3") return read_llama3_scaling(scaling, rope);
  scaling.integer_or({"original_max_position_embeddings"}, 0, 1,
                     kMaxPositions);  // linear scaling has no use for it
}

}  // namespace

Rope read_rope(const Config& config, int64_t head_dim, double default_theta) {
  constexpr Range kThetaRange{1, 1e15};
  std::optional<Config> scaling = config.object("rope_parameters");
  if (const auto older = config.object("rope_scaling")) {
    if (scaling)
      config.fail("rope_scaling", "stands next to rope_parameters, which replaced it: remove one");
    scaling = older;
  }
  Rope rope;
  rope.rotary_dim = head_dim;
  if (head_dim % 2 != 0)
    config.fail("head_dim", fmt::format("{} is odd: rotary embedding needs pairs", head_dim));
  const double outer = config.number_or({"rope_theta"}, 0, kThetaRange);
  const double inner = scaling ? scaling->number_or({"rope_theta"}, 0, kThetaRange) : 0;
  if (outer != 0 && inner != 0 && outer != inner) {
    config.fail("rope_theta",
                fmt::format("{} differs from rope_parameters.rope_theta, {}", outer, inner));
  }
  rope.theta = inner != 0 ? inner : outer != 0 ? outer : default_theta;
  if (config.number_or({"partial_rotary_factor"}, 1, {0, 1}) != 1) {
    config.fail("partial_rotary_factor", "is not supported for this family");
  }
  if (scaling) read_scaling(*scaling, rope);
  return rope;
}

int64_t read_window(const Config& config) {
  return config.integer_or({"sliding_window"}, 0, 0, kMaxPositions);
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

MoeMlp read_moe(const Config& config, const char* width_key) {
  MoeMlp moe;
  moe.experts = config.integer({"num_experts", "num_local_experts"}, 1, kMaxExperts);
  moe.gate.k = config.integer({"num_experts_per_tok"}, 1, kMaxExperts);
  if (moe.gate.k > moe.experts) {
    config.fail("num_experts_per_tok",
                fmt::format("{} is more than the {} experts", moe.gate.k, moe.experts));
  }
  moe.width = config.integer({width_key}, 1, kMaxWidth);
  moe.activation = read_activation(config);
  return moe;
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

}  // namespace shunt::hf
