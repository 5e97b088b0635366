// Falcon (7B, 40B, 180B, RW): attention and MLP in parallel with one norm or two, or in sequence;
// rotation or ALiBi; one KV head, several, or as many as heads.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_falcon(const Config& config) {
  FamilyDefaults defaults{.norm_eps = 1e-5,
                          .norm = ir::NormKind::layer,
                          .norm_bias = true,
                          .tied_embeddings = true,
                          .activation = "gelu"};
  Architecture a = read_decoder(config, defaults);
  const bool grouped = config.boolean_or({"new_decoder_architecture"}, false);
  const bool multi_query = config.boolean_or({"multi_query"}, true);
  const bool alibi = config.boolean_or({"alibi"}, false);
  const int64_t kv_heads = config.integer_or({"num_kv_heads", "n_head_kv"}, 0, 1, kMaxHeads);
  Layer layer = read_layer_without_rope(config, a, defaults);
  Attention& attention = layer.attention;
  if (grouped) {
    attention.kv_heads = kv_heads == 0 ? attention.heads : kv_heads;
  } else {
    attention.kv_heads = multi_query ? 1 : attention.heads;
  }
  if (attention.heads % attention.kv_heads != 0)
    config.fail("num_kv_heads", "does not divide the attention heads");
  const Rope rope = read_rope(config, a, attention.head_dim, defaults);
  if (alibi) {
    // The reference adds the slopes to scores before they are scaled, rounded to bf16.
    attention.alibi = alibi_slopes(attention.heads, true);
    for (double& slope : attention.alibi) slope *= attention.scale;
  } else {
    attention.rope = rope;
  }
  attention.qkv_bias = attention.o_bias = config.boolean_or({"bias"}, false);
  const bool parallel = config.boolean_or({"parallel_attn"}, true);
  layer.parallel = grouped || parallel;
  const int64_t norms = config.integer_or({"num_ln_in_parallel_attn"}, grouped ? 2 : 1, 1, 2);
  if (grouped && norms == 1 && !parallel) {
    config.fail(
        "parallel_attn",
        "false leaves the MLP without an input where new_decoder_architecture has one norm");
  }
  const bool two = layer.parallel && grouped && norms == 2;
  if (layer.parallel && !two) layer.mlp_norm.reset();
  layer.mlp = DenseMlp{config.integer_or({"ffn_hidden_size"}, 4 * a.hidden_size, 1, kMaxWidth),
                       read_activation(config, defaults.activation), false, attention.o_bias};
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  CheckpointNames& n = a.names;
  n.embedding = "transformer.word_embeddings.weight";
  n.final_norm = "transformer.ln_f";
  n.layer = "transformer.h.";
  if (two) {
    n.attention_norm = "ln_attn";
    n.mlp_norm = "ln_mlp";
  }
  n.attention = "self_attention";
  n.qkv_layout = QkvLayout::grouped;
  n.qkv = "self_attention.query_key_value";
  n.o = "self_attention.dense";
  n.dense = {"", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", ""};
  return a;
}

}  // namespace shunt::hf
