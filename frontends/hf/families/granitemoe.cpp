// Granite 3 MoE (1B-A400M, 3B-A800M): scalar multipliers, the top-k before the softmax, all experts
// of a layer in two tensors.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_granitemoe(const Config& config) {
  const FamilyDefaults defaults;
  constexpr Range kScale{-1e6, 1e6};
  Architecture a = read_decoder(config, defaults);
  a.embedding_scale = config.number_or({"embedding_multiplier"}, 1, kScale);
  a.residual_scale = config.number_or({"residual_multiplier"}, 1, kScale);
  a.logit_scale = 1 / config.number_or({"logits_scaling"}, 1, {1e-6, 1e6});
  Layer layer = read_layer(config, a, defaults);
  layer.attention.scale = config.number_or({"attention_multiplier"}, 1, kScale);
  read_attention_bias(config, layer.attention);
  MoeMlp moe = read_moe(config, "intermediate_size");
  moe.gate.score = ir::ScoreFunction::identity;
  moe.gate.norm = ir::RouteNorm::softmax;
  layer.mlp = moe;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  MoeNames names;
  names.module = "block_sparse_moe";
  names.router = "block_sparse_moe.router.layer.weight";
  names.gate_up = "block_sparse_moe.input_linear.weight";
  names.down = "block_sparse_moe.output_linear.weight";
  // As transformers 5 holds them in memory.
  MoeNames fused = names;
  fused.router = "block_sparse_moe.router.weight";
  fused.gate_up = "block_sparse_moe.experts.gate_up_proj";
  fused.down = "block_sparse_moe.experts.down_proj";
  a.names.moe = {names, fused};
  return a;
}

}  // namespace shunt::hf
