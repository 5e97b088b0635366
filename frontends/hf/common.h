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
  ir::NormKind norm = ir::NormKind::rms;
  bool norm_bias = false;
  double rope_theta = 10000;
  bool partial_rotary = false;  // partial_rotary_factor may be other than 1
  double rotary_share = 1;      // its default
  int64_t kv_heads = 0;         // 0: as many as heads
  int64_t head_dim = 0;         // 0: hidden_size / heads
  int64_t max_positions = 2048;
  bool tied_embeddings = false;
  const char* activation = "silu";
};

/// Everything but the layers: sizes, embeddings, final norm, dtype, quantisation.
Architecture read_decoder(const Config& config, const FamilyDefaults& defaults);

/// A layer with its two norms and attention (heads, head_dim, rope, scale); no window, no biases,
/// no MLP yet.
Layer read_layer(const Config& config, const Architecture& decoder, const FamilyDefaults& defaults);
/// The same without a rope.
Layer read_layer_without_rope(const Config& config, const Architecture& decoder,
                              const FamilyDefaults& defaults);
/// The same for latent attention (DeepSeek): its ranks and head parts, rotation by neighbours, and
/// YaRN's factor of the scores.
Layer read_latent_layer(const Config& config, const Architecture& decoder,
                        const FamilyDefaults& defaults);
/// Biases of q, k, v and o by `attention_bias`.
void read_attention_bias(const Config& config, Attention& attention, bool fallback = false);

int64_t read_layer_count(const Config& config);
/// `hidden_act` as a function name of ir/expr.h.
std::string read_activation(const Config& config, const char* fallback = "silu");
std::string activation_named(const Config& config, const char* key, const std::string& name);
/// intermediate_size and the activation.
DenseMlp read_dense(const Config& config, const FamilyDefaults& defaults = {});
/// rope_parameters (transformers 5), or rope_theta and rope_scaling (4).
Rope read_rope(const Config& config, const Architecture& decoder, int64_t head_dim,
               const FamilyDefaults& defaults);
/// quantization_config: fp8 with block scales or mxfp4; fails for any other.
Quantization read_quantization(const Config& config);
/// sliding_window, 0 for none (null or 0 in the config).
int64_t read_window(const Config& config, int64_t fallback = 0);
/// Sets the window of every layer, or with `layer_types` of those that say "sliding_attention".
void apply_window(const Config& config, int64_t window, std::vector<Layer>& layers);
/// The window of the Qwen families: use_sliding_window, and layers from max_window_layers on.
void apply_qwen_window(const Config& config, std::vector<Layer>& layers);
/// num_experts, num_experts_per_tok, the activation, and softmax scores; `width_key` names the
/// expert's width.
MoeMlp read_moe(const Config& config, const char* width_key);
/// Defaults of read_deepseek_moe.
struct DeepseekDefaults {
  bool norm_topk = true;
  int64_t dense_layers = 0;
  int64_t shared = 0;
};
/// What DeepSeek-V3 and its kin share: sigmoid scores with a selection bias, groups, shared experts
/// as one wide MLP, `first_k_dense_replace`. Adds the layers: `layer` with an MLP each.
void read_deepseek_moe(const Config& config, Layer layer, Architecture& a,
                       const DeepseekDefaults& defaults);
/// `decoder_sparse_step` and `mlp_only_layers`: adds the layers, `layer` with `moe` or a dense MLP.
void read_sparse_layers(const Config& config, Layer layer, const MoeMlp& moe, Architecture& a);
/// Layers after the last that predict further tokens: known, and left out.
void ignore_extra_layers(const Config& config, const char* key, Architecture& a);

/// Slopes of ALiBi, one a head, in float32; with `rounded` to bf16, as some references keep them.
std::vector<double> alibi_slopes(int64_t heads, bool rounded);

/// "bfloat16" -> DType::bf16; fails for what Shunt does not compute in.
DType read_dtype(const Config& config, DType fallback);

/// Names of routers and experts under `module` with transformers 5's fused tensors, and with one
/// tensor an expert.
MoeNames fused_expert_names(const std::string& module);
MoeNames expert_names(const std::string& module, const char* gate, const char* up,
                      const char* down);
/// Both of them, for experts with gate_proj, up_proj and down_proj.
std::vector<MoeNames> usual_expert_names(const std::string& module);
/// gate_proj, up_proj, down_proj under `module`.
MlpNames mlp_names(const std::string& module);

}  // namespace shunt::hf
