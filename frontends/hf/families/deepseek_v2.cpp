// DeepSeek-V2 (Lite, Coder): latent attention; softmax router, greedy or limited to the groups of
// the best experts; shared experts; the first layers dense.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_deepseek_v2(const Config& config) {
  const FamilyDefaults defaults;
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_latent_layer(config, a, defaults);
  read_deepseek_moe(config, layer, a, {.norm_topk = false, .shared = 2});
  const std::string method = config.text_or({"topk_method"}, "greedy");
  if (method != "greedy" && method != "group_limited_greedy") {
    config.fail("topk_method", "is neither greedy nor group_limited_greedy");
  }
  if (config.text_or({"scoring_func"}, "softmax") != "softmax")
    config.fail("scoring_func", "is not softmax");
  for (Layer& one : a.layers) {
    auto* moe = std::get_if<MoeMlp>(&one.mlp);
    if (moe == nullptr) continue;
    moe->gate.score = ir::ScoreFunction::softmax;
    // The reference never renormalises, whatever norm_topk_prob says.
    moe->gate.norm = ir::RouteNorm::none;
    moe->gate.norm_eps = 0;
    moe->gate.group_score = ir::GroupScore::max;
    if (method == "greedy") moe->gate.groups = moe->gate.keep_groups = 1;
    moe->selection_bias = false;
  }
  return a;
}

}  // namespace shunt::hf
