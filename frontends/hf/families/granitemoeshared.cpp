// Granite MoE with a shared expert beside the routed ones.
#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_granitemoe(const Config& config);

Architecture read_granitemoeshared(const Config& config) {
  Architecture a = read_granitemoe(config);
  const int64_t width = config.integer_or({"shared_intermediate_size"}, 0, 0, kMaxWidth);
  for (Layer& layer : a.layers) {
    auto& moe = std::get<MoeMlp>(layer.mlp);
    if (width > 0) moe.shared = DenseMlp{width, moe.activation, true, false};
  }
  a.names.shared = {"", "", "shared_mlp.output_linear", "shared_mlp.input_linear"};
  return a;
}

}  // namespace shunt::hf
