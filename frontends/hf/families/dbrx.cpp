// DBRX: layer norms without bias, q, k and v in one clamped matrix, all experts of a layer in three
// flat tensors.
#include "frontends/hf/common.h"

namespace shunt::hf {

namespace {

MoeMlp read_dbrx_moe(const Config& ffn, int64_t hidden) {
  MoeMlp moe;
  moe.experts = ffn.integer_or({"moe_num_experts"}, 4, 1, kMaxExperts);
  moe.gate.k = ffn.integer_or({"moe_top_k"}, 1, 1, moe.experts);
  moe.width = ffn.integer_or({"ffn_hidden_size"}, 3584, 1, kMaxWidth);
  if (ffn.integer_or({"hidden_size"}, hidden, 1, kMaxHidden) != hidden)
    ffn.fail("hidden_size", "differs from the model's d_model");
  if (const auto activation = ffn.object("ffn_act_fn"))
    moe.activation = activation_named(ffn, "ffn_act_fn", activation->text_or({"name"}, "silu"));
  // The p of the norm that the chosen weights are divided by; null: none.
  const double p = ffn.has("moe_normalize_expert_weights")
                       ? ffn.number({"moe_normalize_expert_weights"}, {0, 100})
                       : 0;
  if (p != 0 && p != 1) {
    ffn.fail("moe_normalize_expert_weights", "is neither null nor 1, which Shunt supports");
  }
  moe.gate.norm = p == 1 ? ir::RouteNorm::sum : ir::RouteNorm::none;
  for (const char* unused : {"moe_jitter_eps", "moe_loss_weight"}) ffn.number_or({unused}, 0, {});
  ffn.text_or({"model_type"}, "");
  ffn.boolean_or({"uniform_expert_assignment"}, false);
  return moe;
}

}  // namespace

Architecture read_dbrx(const Config& config) {
  const std::optional<Config> attention = config.object("attn_config");
  const std::optional<Config> ffn = config.object("ffn_config");
  if (!attention) config.fail("attn_config", "is missing");
  if (!ffn) config.fail("ffn_config", "is missing");
  FamilyDefaults defaults{.norm_eps = 1e-5, .norm = ir::NormKind::layer};
  defaults.kv_heads = attention->integer_or({"kv_n_heads"}, 1, 1, kMaxHeads);
  // Where both stand, transformers rotates by rope_parameters alone.
  const double theta = attention->number_or({"rope_theta"}, 10000, {1, 1e15});
  defaults.rope_theta = theta;
  attention->number_or({"attn_pdrop"}, 0, {});
  attention->text_or({"model_type"}, "");
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  if (layer.attention.kv_heads != defaults.kv_heads)
    config.fail("num_key_value_heads", "differs from attn_config.kv_n_heads");
  layer.attention.clip_qkv = attention->number_or({"clip_qkv"}, 0, {1e-6, 1e6});
  layer.mlp = read_dbrx_moe(*ffn, a.hidden_size);
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  CheckpointNames& n = a.names;
  n.embedding = "transformer.wte.weight";
  n.final_norm = "transformer.norm_f";
  n.layer = "transformer.blocks.";
  n.attention_norm = "norm_attn_norm.norm_1";
  n.mlp_norm = "norm_attn_norm.norm_2";
  n.attention = "norm_attn_norm.attn";
  n.qkv_layout = QkvLayout::concat;
  n.qkv = "norm_attn_norm.attn.Wqkv";
  n.o = "norm_attn_norm.attn.out_proj";
  n.mlp = "ffn";
  MoeNames names{.module = "ffn", .router = "ffn.router.layer.weight"};
  names.gate = "ffn.experts.mlp.w1";
  names.up = "ffn.experts.mlp.v1";
  names.down = "ffn.experts.mlp.w2";
  names.layout = MoeNames::Layout::flat;
  n.moe = {names};
  return a;
}

}  // namespace shunt::hf
