// Llama 2 and 3: the dense decoder that most others vary.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_llama(const Config& config) {
  const FamilyDefaults defaults;
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qkv_bias = layer.attention.o_bias = config.boolean_or({"attention_bias"}, false);
  DenseMlp mlp;
  mlp.width = config.integer({"intermediate_size"}, 1, kMaxWidth);
  mlp.activation = read_activation(config);
  mlp.bias = config.boolean_or({"mlp_bias"}, false);
  layer.mlp = mlp;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  return a;
}

}  // namespace shunt::hf
