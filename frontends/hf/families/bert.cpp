// BERT: an encoder with norms after the halves of a layer. With a masked-LM head it gives logits,
// else hidden states. Every token has type 0.
#include <utility>

#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_bert(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-12,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .max_positions = 512,
                                .tied_embeddings = true,
                                .activation = "gelu"};
  Architecture a = read_decoder(config, defaults);
  if (config.text_or({"position_embedding_type"}, "absolute") != "absolute")
    config.fail("position_embedding_type", "is not absolute");
  const Norm norm = *a.final_norm;
  a.causal = false;
  a.embedding_norm = norm;
  a.position_rows = a.max_positions;
  a.token_types = config.integer_or({"type_vocab_size"}, 2, 1, kMaxVocab);
  Layer layer = read_layer_without_rope(config, a, defaults);
  std::swap(layer.attention_norm, layer.attention_sum_norm);
  std::swap(layer.mlp_norm, layer.mlp_sum_norm);
  a.final_norm.reset();
  layer.attention.qkv_bias = layer.attention.o_bias = true;
  DenseMlp mlp = read_dense(config, defaults);
  mlp.gated = false;
  mlp.bias = true;
  layer.mlp = mlp;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  const std::vector<std::string> classes = config.texts({"architectures"});
  a.has_head = !classes.empty() && classes[0] == "BertForMaskedLM";
  const std::string root = !classes.empty() && classes[0] == "BertModel" ? "" : "bert.";
  if (a.has_head) {
    a.head = HeadTransform{mlp.activation, norm};
    a.lm_head_bias = true;
  }
  CheckpointNames& n = a.names;
  n.embedding = root + "embeddings.word_embeddings.weight";
  n.positions = root + "embeddings.position_embeddings";
  n.token_types = root + "embeddings.token_type_embeddings";
  n.embedding_norm = root + "embeddings.LayerNorm";
  n.final_norm = root + "encoder";
  n.lm_head = "cls.predictions.decoder.weight";
  n.lm_head_bias = "cls.predictions.bias";
  n.head_dense = "cls.predictions.transform.dense";
  n.head_norm = "cls.predictions.transform.LayerNorm";
  a.ignored_prefixes = {"cls.predictions.decoder.bias", "cls.seq_relationship.",
                        root + "embeddings.position_ids"};
  n.layer = root + "encoder.layer.";
  n.attention_sum_norm = "attention.output.LayerNorm";
  n.mlp_sum_norm = "output.LayerNorm";
  n.attention = "attention";
  n.q = "attention.self.query";
  n.k = "attention.self.key";
  n.v = "attention.self.value";
  n.o = "attention.output.dense";
  n.mlp = "intermediate";
  n.dense = {"", "intermediate.dense", "output.dense", ""};
  return a;
}

}  // namespace shunt::hf
