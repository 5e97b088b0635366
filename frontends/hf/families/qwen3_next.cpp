// Qwen3-Next (80B-A3B): three layers of gated delta rule to one of attention, whose output is
// gated; zero-centred norms, a quarter of a head rotates, a shared expert behind a gate of its own.
#include "frontends/hf/common.h"
#include "ir/error.h"

namespace shunt::hf {

namespace {

constexpr int64_t kMaxKernel = 64;
constexpr int64_t kMaxLinearHeadDim = 1024;
constexpr int64_t kMaxState = int64_t{1} << 28;  // elements of a sequence's state in a layer

GatedDeltaNet read_delta_net(const Config& config, const Norm& norm, const std::string& act) {
  GatedDeltaNet n;
  n.key_heads = config.integer_or({"linear_num_key_heads"}, 16, 1, kMaxHeads);
  n.heads = config.integer_or({"linear_num_value_heads"}, 32, 1, kMaxHeads);
  n.key_dim = config.integer_or({"linear_key_head_dim"}, 128, 1, kMaxLinearHeadDim);
  n.value_dim = config.integer_or({"linear_value_head_dim"}, 128, 1, kMaxLinearHeadDim);
  n.kernel = config.integer_or({"linear_conv_kernel_dim"}, 4, 2, kMaxKernel);
  if (n.heads % n.key_heads != 0) {
    config.fail("linear_num_value_heads",
                fmt::format("{} is no multiple of the {} key heads", n.heads, n.key_heads));
  }
  if (2 * n.key_heads * n.key_dim + n.heads * n.value_dim > kMaxWidth ||
      n.heads * n.value_dim > kMaxState / n.key_dim) {
    config.fail("linear_num_value_heads",
                fmt::format("{} heads of {} x {} are too wide", n.heads, n.key_dim, n.value_dim));
  }
  n.activation = act;
  n.norm = norm;
  n.norm.plus_one = false;
  return n;
}

/// Entries of layer_types; without them, every full_attention_interval-th layer attends.
std::vector<bool> linear_layers(const Config& config, size_t layers) {
  const int64_t interval = config.integer_or({"full_attention_interval"}, 4, 1, kMaxLayers);
  const std::vector<std::string> types = config.texts({"layer_types"});
  if (!types.empty() && types.size() != layers)
    config.fail("layer_types", "has not one entry a layer");
  std::vector<bool> linear;
  for (size_t i = 0; i < layers; ++i) {
    if (!types.empty() && types[i] != "linear_attention" && types[i] != "full_attention")
      config.fail("layer_types",
                  "has an entry that is neither linear_attention nor full_attention");
    linear.push_back(types.empty() ? (i + 1) % static_cast<size_t>(interval) != 0
                                   : types[i] == "linear_attention");
  }
  return linear;
}

}  // namespace

Architecture read_qwen3_next(const Config& config) {
  const FamilyDefaults defaults{.partial_rotary = true,
                                .rotary_share = 0.25,
                                .kv_heads = 2,
                                .head_dim = 256,
                                .max_positions = 32768};
  Architecture a = read_decoder(config, defaults);
  a.final_norm->plus_one = true;
  Layer layer = read_layer(config, a, defaults);
  layer.attention.qk_norm.over = ir::HeadNorm::head;
  layer.attention.qk_norm.plus_one = true;
  layer.attention.output_gate = true;
  read_attention_bias(config, layer.attention);
  if (config.boolean_or({"use_sliding_window"}, false))
    config.fail("use_sliding_window", "true is not supported for this family");
  MoeMlp moe = read_moe(config, "moe_intermediate_size");
  moe.gate.norm =
      config.boolean_or({"norm_topk_prob"}, true) ? ir::RouteNorm::sum : ir::RouteNorm::none;
  moe.shared = DenseMlp{config.integer_or({"shared_expert_intermediate_size"}, 512, 1, kMaxWidth),
                        moe.activation, true, false};
  moe.shared_gate = true;
  read_sparse_layers(config, layer, moe, a);
  const GatedDeltaNet net = read_delta_net(config, *a.final_norm, moe.activation);
  const std::vector<bool> linear = linear_layers(config, a.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) {
    if (linear[i]) a.layers[i].recurrent = net;
  }
  a.names.recurrent = "linear_attn";
  a.names.moe = usual_expert_names("mlp");
  a.names.shared = mlp_names("mlp.shared_expert");
  a.names.shared_gate = "mlp.shared_expert_gate";
  a.ignored_prefixes = {"mtp."};  // layers that predict further tokens
  return a;
}

}  // namespace shunt::hf
