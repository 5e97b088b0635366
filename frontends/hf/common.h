// What the families share: readers of the parts of config.json that most of them spell alike.
#pragma once

#include <string>
#include <vector>

#include "frontends/architecture.h"
#include "frontends/hf/config.h"

namespace shunt::hf {

/// Values of keys that a family's config may leave out.
struct FamilyDefaults {
  double norm_eps = 1e-6;
  double rope_theta = 10000;
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t max_positions = 2048;
  bool tied_embeddings = false;
};

/// Everything but the layers: sizes, embeddings, final norm, dtype. Refuses quantised checkpoints.
Architecture read_decoder(const Config& config, const FamilyDefaults& defaults);

/// A layer with its two RMS norms and attention (heads, head_dim, rope, scale); no window, no
/// biases, no MLP yet.
Layer read_layer(const Config& config, const Architecture& decoder, const FamilyDefaults& defaults);

int64_t read_layer_count(const Config& config);
/// `hidden_act` as a function name of ir/expr.h.
std::string read_activation(const Config& config);
/// rope_parameters (transformers 5), or rope_theta and rope_scaling (4).
Rope read_rope(const Config& config, int64_t head_dim, double default_theta);
/// sliding_window, 0 for none (null or 0 in the config).
int64_t read_window(const Config& config);
/// Sets the window of every layer, or with `layer_types` of those that say "sliding_attention".
void apply_window(const Config& config, int64_t window, std::vector<Layer>& layers);
/// num_experts, num_experts_per_tok, the activation, and softmax scores; `width_key` names the
/// expert's width.
MoeMlp read_moe(const Config& config, const char* width_key);

/// "bfloat16" -> DType::bf16; fails for what Shunt does not compute in.
DType read_dtype(const Config& config, DType fallback);

/// Names of routers and experts under `module` with transformers 5's fused tensors, and with one
/// tensor an expert.
MoeNames fused_expert_names(const std::string& module);
MoeNames expert_names(const std::string& module, const char* gate, const char* up,
                      const char* down);

}  // namespace shunt::hf
