// Llama 2 and 3: the dense decoder that most others vary.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_llama(const Config& config) {
  const FamilyDefaults defaults;
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  read_attention_bias(config, layer.attention);
  DenseMlp mlp = read_dense(config);
  mlp.bias = config.boolean_or({"mlp_bias"}, false);
  layer.mlp = mlp;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  return a;
}

}  // namespace shunt::hf
