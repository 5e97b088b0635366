// MiniMax-M2: sigmoid router with a selection bias, RMS norm of q and k over their full width, part
// of a head rotates.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_minimax_m2(const Config& config) {
  const FamilyDefaults defaults{.rope_theta = 5e6,
                                .partial_rotary = true,
                                .kv_heads = 8,
                                .head_dim = 128,
                                .max_positions = 196608};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qk_norm.over = ir::HeadNorm::full;
  MoeMlp moe = read_moe(config, "intermediate_size");
  moe.gate.score = ir::ScoreFunction::sigmoid;
  moe.gate.norm = ir::RouteNorm::sum;
  moe.selection_bias = true;
  // Releases say what the family has anyway.
  if (config.text_or({"scoring_func"}, "sigmoid") != "sigmoid")
    config.fail("scoring_func", "is not sigmoid");
  for (const char* key : {"use_qk_norm", "use_routing_bias"}) {
    if (!config.boolean_or({key}, true)) config.fail(key, "false is not supported");
  }
  if (config.text_or({"qk_norm_type"}, "per_layer") != "per_layer")
    config.fail("qk_norm_type", "is not per_layer");
  for (const int64_t type : config.integers({"attn_type_list"})) {
    if (type != 1) config.fail("attn_type_list", "names a layer that is not full attention");
  }
  if (config.integer_or({"shared_intermediate_size"}, 0, 0, kMaxWidth) != 0)
    config.fail("shared_intermediate_size", "is not 0");
  for (const char* key :
       {"layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta"}) {
    if (config.number_or({key}, 1, {-1e6, 1e6}) != 1) config.fail(key, "is not 1");
  }
  config.integer_or({"mlp_intermediate_size"}, 0, 0, kMaxWidth);  // of dense layers: there are none
  config.text_or({"shared_moe_mode"}, "");                        // of shared experts: the same
  config.boolean_or({"use_mtp"}, false);
  config.integer_or({"mtp_transformer_layers"}, 0, 0, kMaxLayers);
  layer.mlp = moe;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  ignore_extra_layers(config, "num_mtp_modules", a);
  MoeNames names = expert_names("block_sparse_moe", "w1", "w3", "w2");
  names.selection_bias = "block_sparse_moe.e_score_correction_bias";
  MoeNames fused = fused_expert_names("mlp");
  fused.selection_bias = "mlp.e_score_correction_bias";
  a.names.moe = {names, fused};
  return a;
}

}  // namespace shunt::hf
