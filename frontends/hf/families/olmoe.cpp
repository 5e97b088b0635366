// OLMoE (1B-7B): RMS norm of q and k over their full width, optional clamp of q, k and v, top-k
// weights as they are.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_olmoe(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5, .max_positions = 4096};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qk_norm.over = ir::HeadNorm::full;
  read_attention_bias(config, layer.attention);
  layer.attention.clip_qkv = config.number_or({"clip_qkv"}, 0, {1e-6, 1e6});
  MoeMlp moe = read_moe(config, "intermediate_size");
  moe.gate.norm =
      config.boolean_or({"norm_topk_prob"}, false) ? ir::RouteNorm::sum : ir::RouteNorm::none;
  layer.mlp = moe;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  a.names.moe = usual_expert_names("mlp");
  return a;
}

}  // namespace shunt::hf
