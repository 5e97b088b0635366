// Llama 4 (Scout, Maverick), text: chunked attention with rotation and full attention without,
// sigmoid router whose weight multiplies the expert's input, one shared expert.
#include <set>

#include "frontends/hf/common.h"

namespace shunt::hf {

namespace {

/// 1 where a layer rotates.
std::vector<int64_t> rotating_layers(const Config& config, int64_t layers) {
  const int64_t interval = config.integer_or({"no_rope_layer_interval"}, 4, 1, kMaxLayers);
  std::vector<int64_t> list = config.integers({"no_rope_layers"});
  if (list.empty()) {
    for (int64_t i = 0; i < layers; ++i) list.push_back((i + 1) % interval != 0 ? 1 : 0);
  }
  if (static_cast<int64_t>(list.size()) != layers)
    config.fail("no_rope_layers", "has not one entry a layer");
  return list;
}

std::set<int64_t> expert_layers(const Config& config, int64_t layers) {
  const int64_t step = config.integer_or({"interleave_moe_layer_step"}, 1, 1, kMaxLayers);
  const std::vector<int64_t> list = config.integers({"moe_layers"});
  std::set<int64_t> out(list.begin(), list.end());
  if (!config.has("moe_layers")) {
    for (int64_t i = step - 1; i < layers; i += step) out.insert(i);
  }
  return out;
}

/// Entries of layer_types; without them, layers that rotate attend in chunks.
std::vector<bool> chunked_layers(const Config& config, const std::vector<int64_t>& rotating) {
  const std::vector<std::string> types = config.texts({"layer_types"});
  std::vector<bool> out;
  for (size_t i = 0; i < rotating.size(); ++i) {
    if (!types.empty() && types.size() != rotating.size())
      config.fail("layer_types", "has not one entry a layer");
    if (!types.empty() && types[i] != "chunked_attention" && types[i] != "full_attention") {
      config.fail("layer_types",
                  "has an entry that is neither chunked_attention nor full_attention");
    }
    out.push_back(types.empty() ? rotating[i] != 0 : types[i] == "chunked_attention");
  }
  return out;
}

}  // namespace

Architecture read_llama4_text(const Config& config) {
  const FamilyDefaults defaults{.norm_eps = 1e-5,
                                .rope_theta = 500000,
                                .kv_heads = 8,
                                .head_dim = 128,
                                .max_positions = 131072};
  Architecture a = read_decoder(config, defaults);
  Layer base = read_layer(config, a, defaults);
  base.attention.rope->interleaved = true;
  read_attention_bias(config, base.attention);
  MoeMlp moe = read_moe(config, "intermediate_size");
  moe.gate.score = ir::ScoreFunction::sigmoid;
  moe.weight_on_input = true;
  moe.shared = DenseMlp{moe.width, moe.activation, true, false};
  const DenseMlp dense{config.integer_or({"intermediate_size_mlp"}, 16384, 1, kMaxWidth),
                       moe.activation, true, false};

  const int64_t layers = read_layer_count(config);
  const std::vector<int64_t> rotating = rotating_layers(config, layers);
  const std::vector<bool> chunked = chunked_layers(config, rotating);
  const std::set<int64_t> with_experts = expert_layers(config, layers);
  const int64_t chunk = config.integer_or({"attention_chunk_size"}, 0, 1, kMaxPositions);
  const bool qk_norm = config.boolean_or({"use_qk_norm"}, true);
  const bool tuned = config.boolean_or({"attn_temperature_tuning"}, true);
  const QueryTemperature temperature{config.number_or({"floor_scale"}, 8192, {1, 1e9}),
                                     config.number_or({"attn_scale"}, 0.1, {0, 1e3})};
  for (int64_t i = 0; i < layers; ++i) {
    Layer layer = base;
    const bool rotates = rotating[static_cast<size_t>(i)] != 0;
    if (chunked[static_cast<size_t>(i)]) layer.attention.chunk = chunk;
    if (rotates && qk_norm) {
      layer.attention.qk_norm.over = ir::HeadNorm::head;
      layer.attention.qk_norm.after_rope = true;
      layer.attention.qk_norm.has_weight = false;
    }
    if (!rotates) {
      layer.attention.rope.reset();
      if (tuned) layer.attention.temperature = temperature;
    }
    if (with_experts.contains(i)) {
      layer.mlp = moe;
    } else {
      layer.mlp = dense;
    }
    a.layers.push_back(layer);
  }
  CheckpointNames& n = a.names;
  n.mlp = "feed_forward";
  n.dense = mlp_names("feed_forward");
  n.shared = mlp_names("feed_forward.shared_expert");
  MoeNames names{.module = "feed_forward", .router = "feed_forward.router.weight"};
  names.gate_up = "feed_forward.experts.gate_up_proj";
  names.down = "feed_forward.experts.down_proj";
  names.layout = MoeNames::Layout::columns;
  MoeNames apart = expert_names("feed_forward", "gate_proj", "up_proj", "down_proj");
  apart.router = names.router;
  n.moe = {names, apart};
  return a;
}

}  // namespace shunt::hf
