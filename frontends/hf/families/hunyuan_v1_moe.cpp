// Hunyuan-A13B: RMS norm of q and k per head after rotation, one shared expert.
#include <fmt/format.h>

#include "frontends/hf/common.h"

namespace shunt::hf {

namespace {

/// Keys of releases (Hunyuan-A13B) that say what the family has anyway, or that are for parts which
/// it has not.
void check_release_keys(const Config& config, const Attention& attention, const MoeMlp& moe) {
  const auto need = [&](const char* key, int64_t value) {
    if (config.integer_or({key}, value, 0, kMaxWidth) != value)
      config.fail(key, fmt::format("is not {}", value));
  };
  need("attention_head_dim", attention.head_dim);
  need("moe_intermediate_size", moe.width);
  need("num_shared_expert", 1);
  need("moe_layer_num_skipped", 0);
  for (const char* key :
       {"norm_topk_prob", "use_qk_norm", "use_rotary_pos_emb", "use_mixed_mlp_moe"}) {
    if (!config.boolean_or({key}, true)) config.fail(key, "false is not supported");
  }
  for (const char* key : {"use_cla", "use_mla", "mlp_bias", "add_classification_head",
                          "position_embedding_xdrope", "moe_drop_tokens"}) {
    if (config.boolean_or({key}, false)) config.fail(key, "true is not supported");
  }
  if (config.text_or({"norm_type"}, "rms") != "rms") config.fail("norm_type", "is not rms");
  config.text_or({"pool_type"}, "");
  for (const char* unused :
       {"cla_share_factor", "class_num", "dense_list", "im_start_id", "im_end_id", "im_newline_id",
        "video_start_id", "video_end_id", "text_start_id", "text_end_id", "mask_init_id", "pad_id",
        "num_media_embeds", "org_vocab_size", "unused_var"}) {
    config.integers({unused});
  }
}

}  // namespace

Architecture read_hunyuan_v1_moe(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qk_norm.over = ir::HeadNorm::head;
  layer.attention.qk_norm.after_rope = true;
  read_attention_bias(config, layer.attention);
  MoeMlp moe = read_moe(config, "intermediate_size");
  moe.gate.norm = ir::RouteNorm::sum;
  check_release_keys(config, layer.attention, moe);
  moe.shared = DenseMlp{moe.width, moe.activation, true, false};
  layer.mlp = moe;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  a.names.q_norm = "self_attn.query_layernorm";
  a.names.k_norm = "self_attn.key_layernorm";
  a.names.moe = usual_expert_names("mlp");
  for (MoeNames& names : a.names.moe) names.router = "mlp.gate.wg.weight";
  a.names.shared = mlp_names("mlp.shared_mlp");
  return a;
}

}  // namespace shunt::hf
