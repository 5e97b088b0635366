// Mistral (7B and successors): Llama with a sliding window.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_mistral(const Config& config) {
  const FamilyDefaults defaults{.kv_heads = 8, .max_positions = 131072};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.mlp = read_dense(config);
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  apply_window(config, read_window(config), a.layers);
  return a;
}

}  // namespace shunt::hf
