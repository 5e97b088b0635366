// dots.llm1: DeepSeek-V3 routing with plain attention, RMS norm of q and k per head.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_dots1(const Config& config) {
  const FamilyDefaults defaults{.kv_heads = 32};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qk_norm.over = ir::HeadNorm::head;
  read_attention_bias(config, layer.attention);
  read_deepseek_moe(config, layer, a, {.norm_topk = false});
  const int64_t window = read_window(config, 4096);
  const int64_t first = config.integer_or({"max_window_layers"}, 62, 0, kMaxPositions);
  if (config.has("layer_types")) {
    apply_window(config, window, a.layers);
  } else {
    for (int64_t i = first; i < static_cast<int64_t>(a.layers.size()); ++i)
      a.layers[static_cast<size_t>(i)].attention.window = window;
  }
  return a;
}

}  // namespace shunt::hf
