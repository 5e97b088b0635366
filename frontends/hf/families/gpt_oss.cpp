// gpt-oss (20b, 120b): attention sinks, sliding and full layers in turn, biases everywhere, a
// clamped SwiGLU, gate and up columns interleaved; experts also as mxfp4, whose rows are.
#include <fmt/format.h>

#include "frontends/hf/common.h"

namespace shunt::hf {

namespace {

/// (clamp(up) + 1) * gate * sigmoid(alpha * gate), with gate clamped from above.
std::string clamped_swiglu(double alpha, double limit) {
  return fmt::format("(clamp(x1, -{1}, {1}) + 1) * (min(x0, {1}) * sigmoid({0} * min(x0, {1})))",
                     alpha, limit);
}

}  // namespace

Architecture read_gpt_oss(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .rope_theta = 150000,
                                .kv_heads = 8,
                                .head_dim = 64,
                                .max_positions = 131072};
  Architecture a = read_decoder(config, defaults);
  Layer layer = read_layer(config, a, defaults);
  read_attention_bias(config, layer.attention, true);
  layer.attention.sinks = true;
  MoeMlp moe = read_moe(config, "intermediate_size");
  moe.gate.score = ir::ScoreFunction::identity;
  moe.gate.norm = ir::RouteNorm::softmax;
  moe.router_bias = moe.expert_bias = true;
  moe.inner = clamped_swiglu(config.number_or({"swiglu_alpha"}, 1.702, {0, 100}),
                             config.number_or({"swiglu_limit"}, 7, {1e-3, 1e6}));
  config.integer_or({"initial_context_length"}, 0, 1, kMaxPositions);
  layer.mlp = moe;
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  const int64_t window = read_window(config, 128);
  if (config.has("layer_types")) {
    apply_window(config, window, a.layers);
  } else {
    for (size_t i = 0; i < a.layers.size(); i += 2) a.layers[i].attention.window = window;
  }
  MoeNames names{.module = "mlp", .router = "mlp.router.weight"};
  names.router_bias = "mlp.router.bias";
  names.gate_up = "mlp.experts.gate_up_proj";
  names.down = "mlp.experts.down_proj";
  names.gate_up_bias = "mlp.experts.gate_up_proj_bias";
  names.down_bias = "mlp.experts.down_proj_bias";
  names.layout = MoeNames::Layout::interleaved;
  MoeNames packed = names;  // as published
  packed.gate_up += "_blocks";
  packed.down += "_blocks";
  packed.layout = MoeNames::Layout::interleaved_rows;
  a.names.moe = {names, packed};
  return a;
}

}  // namespace shunt::hf
