// Qwen2 and 2.5: Llama with biases of q, k and v.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_qwen2(const Config& config) {
  const FamilyDefaults defaults{.kv_heads = 32, .max_positions = 32768};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qkv_bias = true;
  layer.mlp = read_dense(config);
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  apply_qwen_window(config, a.layers);
  return a;
}

}  // namespace shunt::hf
