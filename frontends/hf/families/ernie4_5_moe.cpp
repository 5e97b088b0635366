// ERNIE 4.5 MoE: softmax scores, a selection bias, the chosen weights divided by their sum or a
// least value; dense and MoE layers.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_ernie4_5_moe(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .rope_theta = 500000,
                                .kv_heads = 4,
                                .max_positions = 131072,
                                .tied_embeddings = true};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  // The reference rotates neighbours.
  layer.attention.rope->interleaved = true;
  const bool bias = config.boolean_or({"use_bias"}, false);
  layer.attention.qkv_bias = layer.attention.o_bias = bias;
  MoeMlp moe = read_moe(config, "moe_intermediate_size");
  moe.gate.norm = ir::RouteNorm::sum;
  moe.gate.norm_min = config.number_or({"moe_norm_min"}, 1e-12, {0, 1});
  moe.selection_bias = true;
  // Releases say what the family has anyway; the capacity is of training.
  if (config.text_or({"moe_gate"}, "topk") != "topk") config.fail("moe_gate", "is not topk");
  if (!config.boolean_or({"moe_use_aux_free"}, true))
    config.fail("moe_use_aux_free", "false is not supported");
  config.integers({"moe_capacity"});
  const int64_t shared = config.integer_or({"moe_num_shared_experts"}, 2, 0, kMaxExperts);
  if (shared > 0) moe.shared = DenseMlp{moe.width * shared, moe.activation, true, bias};
  DenseMlp dense = read_dense(config);
  dense.bias = bias;

  const int64_t layers = read_layer_count(config);
  const int64_t first = config.integer_or({"moe_layer_start_index"}, 1, 0, kMaxLayers);
  int64_t last = config.integer_or({"moe_layer_end_index"}, -1, -1, kMaxLayers);
  if (last == -1) last = layers - 1;
  const int64_t interval = config.integer_or({"moe_layer_interval"}, 1, 1, kMaxLayers);
  for (int64_t i = 0; i < layers; ++i) {
    if ((i + 1) % interval == 0 && i >= first && i <= last) {
      layer.mlp = moe;
    } else {
      layer.mlp = dense;
    }
    a.layers.push_back(layer);
  }
  // Layers that predict further tokens.
  ignore_extra_layers(config, "num_nextn_predict_layers", a);
  a.ignored_prefixes.push_back("model.mtp_");
  a.names.moe = usual_expert_names("mlp");
  for (MoeNames& names : a.names.moe)
    names.selection_bias = "mlp.moe_statics.e_score_correction_bias";
  // As transformers 5 holds them in memory.
  a.names.moe.push_back(a.names.moe.back());
  a.names.moe.back().selection_bias = "mlp.gate.moe_statics.e_score_correction_bias";
  a.names.shared = mlp_names("mlp.shared_experts");
  return a;
}

}  // namespace shunt::hf
