// FlexOlmo: norms stand after attention and experts, before they are added; RMS norm of q and k
// over their full width.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_flex_olmo(const Config& config) {
  const FamilyDefaults defaults{.rope_theta = 500000, .max_positions = 4096};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention_out_norm = layer.mlp_out_norm = layer.attention_norm;
  layer.attention_norm.reset();
  layer.mlp_norm.reset();
  layer.attention.qk_norm.over = ir::HeadNorm::full;
  read_attention_bias(config, layer.attention);
  MoeMlp moe = read_moe(config, "intermediate_size");
  moe.gate.norm =
      config.boolean_or({"norm_topk_prob"}, false) ? ir::RouteNorm::sum : ir::RouteNorm::none;
  layer.mlp = moe;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  a.names.attention_out_norm = "post_attention_layernorm";
  a.names.mlp_out_norm = "post_feedforward_layernorm";
  a.names.moe = usual_expert_names("mlp");
  return a;
}

}  // namespace shunt::hf
