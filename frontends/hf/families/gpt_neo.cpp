// GPT-Neo: GPT-2 with local attention in some layers, scores that are not scaled, plain matrices.
#include "frontends/hf/common.h"

namespace shunt::hf {

namespace {

/// attention_types: [[["global", "local"], 12]], or the list attention_layers that it stands for.
std::vector<std::string> attention_layers(const Config& config, int64_t layers) {
  const std::vector<std::string> expanded = config.repeated_texts("attention_types");
  std::vector<std::string> list = config.texts({"attention_layers"});
  if (list.empty()) list = expanded;
  if (list.empty()) {
    for (int64_t i = 0; i < layers; ++i) list.push_back(i % 2 == 0 ? "global" : "local");
  }
  if (static_cast<int64_t>(list.size()) != layers)
    config.fail("attention_types", "does not name one type a layer");
  for (const std::string& type : list) {
    if (type != "global" && type != "local")
      config.fail("attention_types", "has a type that is neither global nor local");
  }
  return list;
}

}  // namespace

Architecture read_gpt_neo(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .norm = ir::NormKind::layer,
                                .norm_bias = true,
                                .tied_embeddings = true,
                                .activation = "gelu_new"};
  Architecture a = read_decoder(config, defaults);
  a.position_rows = a.max_positions;
  Layer layer = read_layer_without_rope(config, a, defaults);
  layer.attention.o_bias = true;
  layer.attention.scale = 1;
  layer.mlp = DenseMlp{config.integer_or({"intermediate_size"}, 4 * a.hidden_size, 1, kMaxWidth),
                       read_activation(config, defaults.activation), false, true};
  const int64_t window = config.integer_or({"window_size"}, 256, 1, kMaxPositions);
  for (const std::string& type : attention_layers(config, read_layer_count(config))) {
    a.layers.push_back(layer);
    if (type == "local") a.layers.back().attention.window = window;
  }
  CheckpointNames& n = a.names;
  n.embedding = "transformer.wte.weight";
  n.positions = "transformer.wpe";
  n.final_norm = "transformer.ln_f";
  n.layer = "transformer.h.";
  n.attention_norm = "ln_1";
  n.mlp_norm = "ln_2";
  n.attention = "attn.attention";
  n.q = "attn.attention.q_proj";
  n.k = "attn.attention.k_proj";
  n.v = "attn.attention.v_proj";
  n.o = "attn.attention.out_proj";
  n.dense = {"", "mlp.c_fc", "mlp.c_proj", ""};
  return a;
}

}  // namespace shunt::hf
