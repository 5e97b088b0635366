// DeepSeek-V3 and R1: latent attention; sigmoid router with a selection bias, limited to the best
// groups; the layers that predict further tokens are left out.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_deepseek_v3(const Config& config) {
  const FamilyDefaults defaults{.max_positions = 4096};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_latent_layer(config, a, defaults);
  layer.attention.rope->interleaved = config.boolean_or({"rope_interleave"}, true);
  const std::string method = config.text_or({"topk_method"}, "noaux_tc");
  if (method != "noaux_tc") config.fail("topk_method", "is not noaux_tc");
  if (config.text_or({"scoring_func"}, "sigmoid") != "sigmoid")
    config.fail("scoring_func", "is not sigmoid");
  read_deepseek_moe(config, layer, a, {.norm_topk = true, .dense_layers = 3, .shared = 1});
  config.integer_or({"ep_size"}, 1, 1, kMaxExperts);
  ignore_extra_layers(config, "num_nextn_predict_layers", a);
  return a;
}

}  // namespace shunt::hf
