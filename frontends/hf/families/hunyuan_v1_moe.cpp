// Hunyuan-A13B: RMS norm of q and k per head after rotation, one shared expert.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_hunyuan_v1_moe(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qk_norm.over = ir::HeadNorm::head;
  layer.attention.qk_norm.after_rope = true;
  read_attention_bias(config, layer.attention);
  MoeMlp moe = read_moe(config, "intermediate_size");
  moe.gate.norm = ir::RouteNorm::sum;
  moe.shared = DenseMlp{moe.width, moe.activation, true, false};
  layer.mlp = moe;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  a.names.q_norm = "self_attn.query_layernorm";
  a.names.k_norm = "self_attn.key_layernorm";
  a.names.moe = usual_expert_names("mlp");
  for (MoeNames& names : a.names.moe) names.router = "mlp.gate.wg.weight";
  a.names.shared = mlp_names("mlp.shared_mlp");
  return a;
}

}  // namespace shunt::hf
