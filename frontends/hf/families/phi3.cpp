// Phi-3 and Phi-4: q, k and v in one matrix, gate and up in another; longrope for long contexts.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_phi3(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5, .partial_rotary = true, .max_positions = 4096};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.mlp = read_dense(config);
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  apply_window(config, read_window(config), a.layers);
  a.names.qkv_layout = QkvLayout::concat;
  a.names.qkv = "self_attn.qkv_proj";
  a.names.dense = {"", "", "mlp.down_proj", "mlp.gate_up_proj"};
  return a;
}

}  // namespace shunt::hf
