// Qwen1.5-MoE and Qwen2-MoE: biases of q, k and v, and a shared expert behind a sigmoid gate of its
// own.
#include "frontends/hf/common.h"

namespace shunt::hf {

namespace {

/// Without layer_types, every other layer below max_window_layers slides.
void apply_qwen2_moe_window(const Config& config, std::vector<Layer>& layers) {
  if (config.has("layer_types")) return apply_qwen_window(config, layers);
  const int64_t window = read_window(config, 4096);
  const int64_t end = config.integer_or({"max_window_layers"}, 28, 0, kMaxPositions);
  if (!config.boolean_or({"use_sliding_window"}, false)) return;
  for (size_t i = 0; i < layers.size(); i += 2) {
    if (static_cast<int64_t>(i) < end) layers[i].attention.window = window;
  }
}

}  // namespace

Architecture read_qwen2_moe(const Config& config) {
  const FamilyDefaults defaults{.kv_heads = 16, .max_positions = 32768};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qkv_bias = config.boolean_or({"qkv_bias"}, true);
  MoeMlp moe = read_moe(config, "moe_intermediate_size");
  moe.gate.norm =
      config.boolean_or({"norm_topk_prob"}, false) ? ir::RouteNorm::sum : ir::RouteNorm::none;
  moe.shared = DenseMlp{config.integer_or({"shared_expert_intermediate_size"}, 5632, 1, kMaxWidth),
                        moe.activation, true, false};
  moe.shared_gate = true;
  read_sparse_layers(config, layer, moe, a);
  apply_qwen2_moe_window(config, a.layers);
  a.names.moe = usual_expert_names("mlp");
  a.names.shared = mlp_names("mlp.shared_expert");
  a.names.shared_gate = "mlp.shared_expert_gate";
  return a;
}

}  // namespace shunt::hf
