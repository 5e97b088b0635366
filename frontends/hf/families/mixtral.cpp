// Mixtral (8x7B, 8x22B): every layer a MoE, softmax over all experts, the chosen weights
// renormalised.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_mixtral(const Config& config) {
  const FamilyDefaults defaults{
      .norm_eps = 1e-5, .rope_theta = 1e6, .kv_heads = 8, .max_positions = 131072};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  MoeMlp moe = read_moe(config, "intermediate_size");
  moe.gate.norm = ir::RouteNorm::sum;
  layer.mlp = moe;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  apply_window(config, read_window(config), a.layers);
  a.names.moe = {expert_names("block_sparse_moe", "w1", "w3", "w2"), fused_expert_names("mlp")};
  return a;
}

}  // namespace shunt::hf
