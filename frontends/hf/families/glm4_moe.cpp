// GLM-4.5 and 4.6: DeepSeek-V3 routing with plain attention, half of a head rotates; the layers
// that predict further tokens are left out.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_glm4_moe(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .partial_rotary = true,
                                .rotary_share = 0.5,
                                .kv_heads = 8,
                                .max_positions = 131072};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qkv_bias = config.boolean_or({"attention_bias"}, false);
  if (config.boolean_or({"use_qk_norm"}, false)) layer.attention.qk_norm.over = ir::HeadNorm::head;
  read_deepseek_moe(config, layer, a, {.norm_topk = true, .dense_layers = 1, .shared = 1});
  ignore_extra_layers(config, "num_nextn_predict_layers", a);
  return a;
}

}  // namespace shunt::hf
