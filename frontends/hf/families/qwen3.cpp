// Qwen3: RMS norm of q and k per head.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_qwen3(const Config& config) {
  const FamilyDefaults defaults{.kv_heads = 32, .head_dim = 128, .max_positions = 32768};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qk_norm.over = ir::HeadNorm::head;
  read_attention_bias(config, layer.attention);
  layer.mlp = read_dense(config);
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  apply_qwen_window(config, a.layers);
  return a;
}

}  // namespace shunt::hf
