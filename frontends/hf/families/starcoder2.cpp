// StarCoder2: layer norms, biases everywhere, a plain MLP, a sliding window over all layers, tied
// embeddings.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_starcoder2(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .kv_heads = 2,
                                .max_positions = 4096,
                                .tied_embeddings = true,
                                .activation = "gelu_pytorch_tanh"};
  Architecture a = read_decoder(config, defaults);
  a.final_norm->eps = config.number_or({"norm_epsilon"}, defaults.norm_eps, {0, 1});
  for (const char* of_training : {"embedding_dropout", "residual_dropout"})
    config.number_or({of_training}, 0, {0, 1});
  Layer layer = read_layer(config, a, defaults);
  const bool bias = config.boolean_or({"use_bias"}, true);
  layer.attention.qkv_bias = layer.attention.o_bias = bias;
  layer.attention.window = read_window(config);
  DenseMlp mlp = read_dense(config, defaults);
  mlp.gated = false;
  mlp.bias = bias;
  layer.mlp = mlp;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  a.names.dense = {"", "mlp.c_fc", "mlp.c_proj", ""};
  return a;
}

}  // namespace shunt::hf
