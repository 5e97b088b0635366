// What a family file fills in: a decoder as plain data, one entry a layer. The shared builder
// (frontends/builder.h) makes the graph from it; nothing here depends on the file format the
// description came from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "ir/attrs.h"

namespace shunt {

/// Rotary position embedding. Equal values share one table of frequencies.
struct Rope {
  enum class Scaling { none, linear, llama3 };
  double theta = 10000;
  int64_t rotary_dim = 0;  // the first so many elements of a head rotate; even, at most head_dim
  bool interleaved = false;
  Scaling scaling = Scaling::none;
  double factor = 1;               // linear, llama3
  double low_freq_factor = 1;      // llama3
  double high_freq_factor = 4;     // llama3
  int64_t original_positions = 0;  // llama3: positions of the unscaled model
  bool operator==(const Rope&) const = default;
};

/// The rotary_dim / 2 inverse frequencies, computed in float32 as the training framework did.
std::vector<double> inverse_frequencies(const Rope& rope);

struct Norm {
  ir::NormKind kind = ir::NormKind::rms;
  double eps = 1e-5;
  bool plus_one = false;  // rms only: scale by (1 + weight)
  bool bias = false;      // layer only
};

struct Attention {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t head_dim = 0;
  bool qkv_bias = false;
  bool o_bias = false;
  ir::HeadNorm qk_norm =
      ir::HeadNorm::none;  // RMS norm of q and k before rotation, with the layer's eps
  double qk_norm_eps = 1e-5;
  double clip_qkv =
      0;  // > 0: q, k and v are clamped to [-clip, clip], after the norm, before rotation
  std::optional<Rope> rope = {};
  double scale = 1;    // multiplies q . k
  int64_t window = 0;  // > 0: the last so many keys, the query's own included
  int64_t chunk = 0;   // > 0: only keys of the same chunk of positions
  double softcap = 0;
};

struct DenseMlp {
  int64_t width = 0;
  std::string activation = "silu";  // a function of ir/expr.h; act(gate(x)) * up(x)
  bool bias = false;
};

struct MoeMlp {
  int64_t experts = 0;
  int64_t width = 0;  // of one expert
  std::string activation = "silu";
  ir::TopkGateAttrs gate;  // k, score, normalisation, groups
};

struct Layer {
  Norm attention_norm;  // before attention
  Attention attention;
  Norm mlp_norm;  // before the MLP
  std::variant<DenseMlp, MoeMlp> mlp;
};

/// Where an expert's weights are in the checkpoint, relative to the layer's prefix.
struct MoeNames {
  std::string module;  // "mlp": for messages and loc
  std::string router;  // [E, H]
  // One tensor an expert ('*' is its number): gate and up [I, H], down [H, I].
  std::string gate, up, down;
  // Or all experts in one tensor: gate_up [E, 2I, H] (gate rows first), down [E, H, I]; then gate
  // and up are empty.
  std::string gate_up;
};

/// Names of checkpoint tensors. Those of a layer are relative to `layer` + its number + ".".
struct CheckpointNames {
  std::string embedding = "model.embed_tokens.weight";  // [V, H]
  std::string final_norm = "model.norm";                // + ".weight", ".bias"
  std::string lm_head = "lm_head.weight";               // [V, H]; unused with tied embeddings
  std::string layer = "model.layers.";
  std::string attention_norm = "input_layernorm";
  std::string mlp_norm = "post_attention_layernorm";
  std::string attention = "self_attn";  // for loc
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj",
              o = "self_attn.o_proj";
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
  std::string mlp = "mlp";  // for loc
  std::string gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj";
  /// Layouts in use; the first one the checkpoint has is taken.
  std::vector<MoeNames> moe;
};

struct Architecture {
  std::string family;  // "mixtral"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t max_positions = 0;     // the longest sequence the model was made for
  bool tied_embeddings = false;  // lm_head is the embedding table
  double embedding_scale = 1;
  double residual_scale = 1;  // multiplies what attention and MLP add to the residual stream
  double logit_scale = 1;
  double logit_softcap = 0;  // > 0: softcap * tanh(logit / softcap)
  std::vector<Layer> layers;
  Norm final_norm;
  CheckpointNames names;
  double init_stddev = 0.02;         // of --dummy-weights
  DType config_dtype = DType::bf16;  // of the weights, as the config says; dummy weights have it
};

}  // namespace shunt
