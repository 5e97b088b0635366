// Gemma 2: norms before and after attention and MLP, capped scores and logits, sliding and full
// layers in turn.
#include <cmath>

#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_gemma2(const Config& config) {
  const FamilyDefaults defaults{.kv_heads = 4,
                                .head_dim = 256,
                                .max_positions = 8192,
                                .tied_embeddings = true,
                                .activation = "gelu_pytorch_tanh"};
  Architecture a = read_decoder(config, defaults);
  a.final_norm->plus_one = true;
  a.embedding_scale = std::sqrt(static_cast<double>(a.hidden_size));
  a.logit_softcap = config.has("final_logit_softcapping")
                        ? config.number({"final_logit_softcapping"}, {0, 1e6})
                        : 0;
  Layer layer = read_layer(config, a, defaults);
  layer.attention_out_norm = layer.mlp_out_norm = layer.attention_norm;
  read_attention_bias(config, layer.attention);
  layer.attention.scale =
      1 / std::sqrt(config.number_or({"query_pre_attn_scalar"}, 256, {1e-6, 1e9}));
  layer.attention.softcap = config.has("attn_logit_softcapping")
                                ? config.number({"attn_logit_softcapping"}, {0, 1e6})
                                : 0;
  layer.mlp = read_dense(config, defaults);
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  const int64_t window = read_window(config, 4096);
  if (config.has("layer_types")) {
    apply_window(config, window, a.layers);
  } else {
    for (size_t i = 0; i < a.layers.size(); i += 2) a.layers[i].attention.window = window;
  }
  // The reference fixes it, and releases write it.
  config.text_or({"cache_implementation"}, "");
  a.names.attention_out_norm = "post_attention_layernorm";
  a.names.mlp_norm = "pre_feedforward_layernorm";
  a.names.mlp_out_norm = "post_feedforward_layernorm";
  return a;
}

}  // namespace shunt::hf
