// Phi-1, 1.5 and 2: attention and MLP read one norm and are added together; part of a head rotates.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_phi(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .partial_rotary = true,
                                .rotary_share = 0.5,
                                .activation = "gelu_new"};
  Architecture a = read_decoder(config, defaults);
  a.lm_head_bias = true;
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qkv_bias = layer.attention.o_bias = true;
  if (config.boolean_or({"qk_layernorm"}, false)) {
    layer.attention.qk_norm.over = ir::HeadNorm::head;
    layer.attention.qk_norm.kind = ir::NormKind::layer;
  }
  layer.parallel = true;
  layer.mlp_norm.reset();
  DenseMlp mlp = read_dense(config, defaults);
  mlp.gated = false;
  mlp.bias = true;
  layer.mlp = mlp;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  CheckpointNames& n = a.names;
  n.final_norm = "model.final_layernorm";
  n.lm_head_bias = "lm_head.bias";
  n.o = "self_attn.dense";
  n.q_norm = "self_attn.q_layernorm";
  n.k_norm = "self_attn.k_layernorm";
  n.dense = {"", "mlp.fc1", "mlp.fc2", ""};
  return a;
}

}  // namespace shunt::hf
