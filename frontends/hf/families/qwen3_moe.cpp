// Qwen3-MoE (30B-A3B, 235B-A22B): RMS norm of q and k per head, softmax router, MoE and dense
// layers may alternate.
#include "frontends/hf/common.h"
#include "ir/error.h"

namespace shunt::hf {

namespace {

/// 0 unless the window is switched on. Releases of the reference disagree on which layers
/// max_window_layers means, and no published model uses it, so a combination of both is refused.
int64_t active_window(const Config& config) {
  const int64_t window = read_window(config);
  const int64_t first = config.integer_or({"max_window_layers"}, 0, 0, kMaxPositions);
  if (!config.boolean_or({"use_sliding_window"}, false)) return 0;
  if (window > 0 && first > 0) {
    config.fail("max_window_layers",
                "together with use_sliding_window is ambiguous; set it to 0 for all layers");
  }
  return window;
}

}  // namespace

Architecture read_qwen3_moe(const Config& config) {
  const FamilyDefaults defaults{.kv_heads = 4, .max_positions = 32768};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qk_norm.over = ir::HeadNorm::head;
  read_attention_bias(config, layer.attention);
  MoeMlp moe = read_moe(config, "moe_intermediate_size");
  moe.gate.norm =
      config.boolean_or({"norm_topk_prob"}, false) ? ir::RouteNorm::sum : ir::RouteNorm::none;
  read_sparse_layers(config, layer, moe, a);
  apply_window(config, active_window(config), a.layers);
  a.names.moe = usual_expert_names("mlp");
  return a;
}

}  // namespace shunt::hf
