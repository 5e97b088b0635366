// GPT-2: learned positions, layer norms, matrices stored as [in, out].
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_gpt2(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .max_positions = 1024,
                                .tied_embeddings = true,
                                .activation = "gelu_new"};
  Architecture a = read_decoder(config, defaults);
  a.position_rows = a.max_positions;
  Layer layer = read_layer_without_rope(config, a, defaults);
  layer.attention.qkv_bias = layer.attention.o_bias = true;
  if (!config.boolean_or({"scale_attn_weights"}, true)) layer.attention.scale = 1;
  layer.mlp = DenseMlp{config.integer_or({"n_inner"}, 4 * a.hidden_size, 1, kMaxWidth),
                       read_activation(config, defaults.activation), false, true};
  const bool inverse = config.boolean_or({"scale_attn_by_inverse_layer_idx"}, false);
  const int64_t layers = read_layer_count(config);
  for (int64_t i = 0; i < layers; ++i) {
    a.layers.push_back(layer);
    if (inverse) a.layers.back().attention.scale /= static_cast<double>(i + 1);
  }
  CheckpointNames& n = a.names;
  const std::string root = "transformer.";
  n.embedding = root + "wte.weight";
  n.positions = root + "wpe";
  n.final_norm = root + "ln_f";
  n.layer = root + "h.";
  n.attention_norm = "ln_1";
  n.mlp_norm = "ln_2";
  n.attention = "attn";
  n.qkv_layout = QkvLayout::concat;
  n.qkv = "attn.c_attn";
  n.o = "attn.c_proj";
  n.dense = {"", "mlp.c_fc", "mlp.c_proj", ""};
  n.columns = true;
  return a;
}

}  // namespace shunt::hf
