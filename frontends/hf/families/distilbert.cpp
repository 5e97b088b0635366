// DistilBERT: BERT without token types; masked-LM logits, or hidden states without that head.
#include <utility>

#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_distilbert(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-12,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .max_positions = 512,
                                .tied_embeddings = true,
                                .activation = "gelu"};
  Architecture a = read_decoder(config, defaults);
  config.boolean_or({"sinusoidal_pos_embds"}, false);  // the table is stored either way
  const Norm norm = *a.final_norm;
  a.causal = false;
  a.embedding_norm = norm;
  a.position_rows = a.max_positions;
  Layer layer = read_layer_without_rope(config, a, defaults);
  std::swap(layer.attention_norm, layer.attention_sum_norm);
  std::swap(layer.mlp_norm, layer.mlp_sum_norm);
  a.final_norm.reset();
  layer.attention.qkv_bias = layer.attention.o_bias = true;
  layer.mlp = DenseMlp{config.integer({"hidden_dim"}, 1, kMaxWidth),
                       read_activation(config, defaults.activation), false, true};
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  const std::vector<std::string> classes = config.texts({"architectures"});
  a.has_head = !classes.empty() && classes[0] == "DistilBertForMaskedLM";
  const std::string root = !classes.empty() && classes[0] == "DistilBertModel" ? "" : "distilbert.";
  if (a.has_head) {
    a.head = HeadTransform{std::get<DenseMlp>(layer.mlp).activation, norm};
    a.lm_head_bias = true;
  }
  CheckpointNames& n = a.names;
  n.embedding = root + "embeddings.word_embeddings.weight";
  n.positions = root + "embeddings.position_embeddings";
  n.embedding_norm = root + "embeddings.LayerNorm";
  n.final_norm = root + "transformer";
  n.lm_head = "vocab_projector.weight";
  n.lm_head_bias = "vocab_projector.bias";
  n.head_dense = "vocab_transform";
  n.head_norm = "vocab_layer_norm";
  n.layer = root + "transformer.layer.";
  n.attention_sum_norm = "sa_layer_norm";
  n.mlp_sum_norm = "output_layer_norm";
  n.attention = "attention";
  n.q = "attention.q_lin";
  n.k = "attention.k_lin";
  n.v = "attention.v_lin";
  n.o = "attention.out_lin";
  n.mlp = "ffn";
  n.dense = {"", "ffn.lin1", "ffn.lin2", ""};
  return a;
}

}  // namespace shunt::hf
