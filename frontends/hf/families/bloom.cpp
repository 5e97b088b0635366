// BLOOM: ALiBi instead of positions, a norm of the embeddings, q, k and v of a head side by side.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_bloom(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .max_positions = 2048,
                                .tied_embeddings = true};
  Architecture a = read_decoder(config, defaults);
  a.max_positions = config.integer_or({"seq_length"}, a.max_positions, 1, kMaxPositions);
  a.embedding_norm = a.final_norm;
  Layer layer = read_layer_without_rope(config, a, defaults);
  layer.attention.qkv_bias = layer.attention.o_bias = true;
  layer.attention.alibi = alibi_slopes(layer.attention.heads, false);
  layer.residual_of_norm = config.boolean_or({"apply_residual_connection_post_layernorm"}, false);
  layer.mlp = DenseMlp{config.integer_or({"n_inner"}, 4 * a.hidden_size, 1, kMaxWidth), "gelu_tanh",
                       false, true};
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  CheckpointNames& n = a.names;
  n.embedding = "transformer.word_embeddings.weight";
  n.embedding_norm = "transformer.word_embeddings_layernorm";
  n.final_norm = "transformer.ln_f";
  n.layer = "transformer.h.";
  n.attention = "self_attention";
  n.qkv_layout = QkvLayout::grouped;
  n.qkv = "self_attention.query_key_value";
  n.o = "self_attention.dense";
  n.dense = {"", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", ""};
  return a;
}

}  // namespace shunt::hf
