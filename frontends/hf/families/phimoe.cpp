// Phi-3.5-MoE: layer norms, a sparse mixer instead of a softmax router, biases of attention and
// head.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_phimoe(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .rope_theta = 1e6,
                                .kv_heads = 8,
                                .max_positions = 131072};
  Architecture a = read_decoder(config, defaults);
  a.lm_head_bias = config.boolean_or({"lm_head_bias"}, false);
  a.names.lm_head_bias = "lm_head.bias";
  Layer layer = read_layer(config, a, defaults);
  read_attention_bias(config, layer.attention);
  MoeMlp moe = read_moe(config, "intermediate_size");
  if (moe.gate.k != 2) config.fail("num_experts_per_tok", "is not 2, which the sparse mixer needs");
  moe.gate.score = ir::ScoreFunction::sparse_mixer;
  moe.gate.jitter = 2 * config.number_or({"router_jitter_noise"}, 0.01, {0, 1e3});
  layer.mlp = moe;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  apply_window(config, read_window(config), a.layers);
  MoeNames fused = fused_expert_names("mlp");
  fused.router = "mlp.router.weight";
  a.names.moe = {expert_names("block_sparse_moe", "w1", "w3", "w2"), fused};
  return a;
}

}  // namespace shunt::hf
