// OPT: learned positions from row 2 on; norms before or after the halves of a layer; the embedding
// may be narrower than the stream.
#include <utility>

#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_opt(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .tied_embeddings = true,
                                .activation = "relu"};
  Architecture a = read_decoder(config, defaults);
  if (!config.boolean_or({"layer_norm_elementwise_affine"}, true)) {
    config.fail("layer_norm_elementwise_affine", "false is not supported");
  }
  constexpr int64_t kOffset = 2;
  a.position_rows = a.max_positions + kOffset;
  a.position_offset = kOffset;
  a.embedding_size = config.integer_or({"word_embed_proj_dim"}, a.hidden_size, 1, kMaxHidden);
  Layer layer = read_layer_without_rope(config, a, defaults);
  const bool bias = config.boolean_or({"enable_bias"}, true);
  layer.attention.qkv_bias = layer.attention.o_bias = bias;
  layer.mlp = DenseMlp{config.integer({"ffn_dim"}, 1, kMaxWidth),
                       read_activation(config, defaults.activation), false, bias};
  const bool before = config.boolean_or({"do_layer_norm_before"}, true);
  if (!before) {
    std::swap(layer.attention_norm, layer.attention_sum_norm);
    std::swap(layer.mlp_norm, layer.mlp_sum_norm);
  }
  const bool removed = config.boolean_or({"_remove_final_layer_norm"}, false);
  if (!before || removed) a.final_norm.reset();
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  CheckpointNames& n = a.names;
  const std::string root = "model.decoder.";
  n.embedding = root + "embed_tokens.weight";
  n.positions = root + "embed_positions";
  n.project_in = root + "project_in";
  n.project_out = root + "project_out";
  n.final_norm = root + "final_layer_norm";
  n.layer = root + "layers.";
  n.attention_norm = n.attention_sum_norm = "self_attn_layer_norm";
  n.mlp_norm = n.mlp_sum_norm = "final_layer_norm";
  n.o = "self_attn.out_proj";
  n.mlp = "fc1";
  n.dense = {"", "fc1", "fc2", ""};
  return a;
}

}  // namespace shunt::hf
