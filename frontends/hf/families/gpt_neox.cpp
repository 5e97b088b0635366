// GPT-NeoX and Pythia: q, k and v of a head side by side in one matrix, attention and MLP in
// parallel with a norm each, part of a head rotates.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_gpt_neox(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .partial_rotary = true,
                                .rotary_share = 0.25,
                                .activation = "gelu"};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  read_attention_bias(config, layer.attention, true);
  layer.parallel = config.boolean_or({"use_parallel_residual"}, true);
  DenseMlp mlp = read_dense(config, defaults);
  mlp.gated = false;
  mlp.bias = true;
  layer.mlp = mlp;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  CheckpointNames& n = a.names;
  n.embedding = "gpt_neox.embed_in.weight";
  n.final_norm = "gpt_neox.final_layer_norm";
  n.lm_head = "embed_out.weight";
  n.layer = "gpt_neox.layers.";
  n.attention = "attention";
  n.qkv_layout = QkvLayout::grouped;
  n.qkv = "attention.query_key_value";
  n.o = "attention.dense";
  n.dense = {"", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", ""};
  return a;
}

}  // namespace shunt::hf
