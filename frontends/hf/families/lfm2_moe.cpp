// LFM2-MoE (8B-A1B): gated short convolutions with some layers of attention between them, sigmoid
// router with a selection bias, the first layers dense.
#include "frontends/hf/common.h"

namespace shunt::hf {

namespace {

constexpr int64_t kMaxKernel = 64;

MoeMlp read_experts(const Config& config) {
  MoeMlp moe = read_moe(config, "moe_intermediate_size");
  moe.gate.score = ir::ScoreFunction::sigmoid;
  if (config.boolean_or({"norm_topk_prob"}, true)) {
    moe.gate.norm = ir::RouteNorm::sum;
    moe.gate.norm_eps = 1e-6;
  }
  moe.gate.scale = config.number_or({"routed_scaling_factor"}, 1, {1e-6, 1e6});
  moe.selection_bias = config.boolean_or({"use_expert_bias"}, true);
  return moe;
}

void set_names(CheckpointNames& n) {
  n.final_norm = "model.embedding_norm";  // of the last layer's output, whatever its name
  n.attention_norm = "operator_norm";
  n.mlp_norm = "ffn_norm";
  n.o = "self_attn.out_proj";
  n.q_norm = "self_attn.q_layernorm";
  n.k_norm = "self_attn.k_layernorm";
  n.recurrent = "conv";
  n.mlp = "feed_forward";
  n.dense = {"feed_forward.w1", "feed_forward.w3", "feed_forward.w2", ""};
  n.moe = {expert_names("feed_forward", "w1", "w3", "w2"), fused_expert_names("feed_forward")};
  for (MoeNames& names : n.moe) names.selection_bias = "feed_forward.expert_bias";
}

}  // namespace

Architecture read_lfm2_moe(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .rope_theta = 1e6,
                                .kv_heads = 8,
                                .max_positions = 128000,
                                .tied_embeddings = true};
  Architecture a = read_decoder(config, defaults);
  a.tied_embeddings = config.boolean_or({"tie_embedding"}, a.tied_embeddings);
  Layer base = read_layer(config, a, defaults);
  base.attention.qk_norm.over = ir::HeadNorm::head;
  const ShortConv conv{config.integer_or({"conv_L_cache"}, 3, 2, kMaxKernel),
                       config.boolean_or({"conv_bias"}, false)};
  const MoeMlp moe = read_experts(config);
  DenseMlp dense;
  dense.width = config.integer({"intermediate_size"}, 1, kMaxWidth);
  const int64_t first = config.integer_or({"num_dense_layers"}, 2, 0, kMaxLayers);
  const std::vector<std::string> types = config.texts({"layer_types"});
  const int64_t layers = read_layer_count(config);
  if (static_cast<int64_t>(types.size()) != layers)
    config.fail("layer_types", "has not one entry a layer");
  for (int64_t i = 0; i < layers; ++i) {
    Layer layer = base;
    const std::string& type = types[static_cast<size_t>(i)];
    if (type == "conv") {
      layer.recurrent = conv;
    } else if (type != "full_attention") {
      config.fail("layer_types", "has an entry that is neither conv nor full_attention");
    }
    if (i < first) {
      layer.mlp = dense;
    } else {
      layer.mlp = moe;
    }
    a.layers.push_back(layer);
  }
  set_names(a.names);
  return a;
}

}  // namespace shunt::hf
