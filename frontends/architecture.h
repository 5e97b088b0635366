// What a family file fills in: a model as plain data, one entry a layer. The shared builder
// (frontends/builder.h) makes the graph from it; nothing here depends on the file format the
// description came from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "frontends/quantization.h"
#include "ir/attrs.h"

namespace shunt {

/// Rotary position embedding. Equal values share one table of frequencies.
struct Rope {
  enum class Scaling { none, linear, llama3, yarn, longrope };
  double theta = 10000;
  int64_t rotary_dim = 0;  // the first so many elements of a head rotate; even, at most head_dim
  bool interleaved = false;
  double scale = 1;  // multiplies cos and sin
  Scaling scaling = Scaling::none;
  double factor = 1;               // linear, llama3, yarn
  double low_freq_factor = 1;      // llama3
  double high_freq_factor = 4;     // llama3
  int64_t original_positions = 0;  // llama3, yarn, longrope: positions of the unscaled model
  double beta_fast = 32;           // yarn
  double beta_slow = 1;            // yarn
  bool truncate = true;            // yarn: whole dimensions bound the blend
  double mscale_all_dim = 0;       // yarn: DeepSeek scales scores by it too
  // longrope: what each frequency is divided by, where no sequence is longer than
  // original_positions, and where some may be; scales of cos and sin for the two.
  std::vector<double> short_factors = {}, long_factors = {};
  double short_scale = 1, long_scale = 1;
  bool operator==(const Rope&) const = default;
};

/// The rotary_dim / 2 inverse frequencies, computed in float32 as the training framework did.
/// `max_model_len` chooses between longrope's two lists.
std::vector<double> inverse_frequencies(const Rope& rope, int64_t max_model_len = 0);
/// What multiplies cos and sin.
double rope_scale(const Rope& rope, int64_t max_model_len);

struct Norm {
  ir::NormKind kind = ir::NormKind::rms;
  double eps = 1e-5;
  bool plus_one = false;  // rms only: scale by (1 + weight)
  bool bias = false;      // layer only
  bool operator==(const Norm&) const = default;
};

/// Norm of q and k.
struct HeadNorms {
  ir::HeadNorm over = ir::HeadNorm::none;  // each head, or the full width before it is split
  ir::NormKind kind = ir::NormKind::rms;   // layer norms have a bias
  double eps = 1e-5;
  bool after_rope = false;  // over heads only
  bool has_weight = true;   // without: plain division by the root mean square
  bool plus_one = false;
};

/// A query at position p is multiplied by 1 + attn_scale * log(1 + floor((p + 1) / floor_scale)).
struct QueryTemperature {
  double floor_scale = 8192;
  double attn_scale = 0.1;
  bool operator==(const QueryTemperature&) const = default;
};

/// DeepSeek's latent attention: q and kv come through narrow matrices, and a head is a part without
/// and a part with rotation, whose key all heads share.
struct LatentAttention {
  int64_t q_rank = 0;  // 0: q is one matrix
  int64_t kv_rank = 0;
  int64_t nope_dim = 0;
  int64_t value_dim = 0;
  Norm norm;  // of the narrow rows
};

struct Attention {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t head_dim = 0;  // of q and k
  bool qkv_bias = false;
  bool o_bias = false;
  HeadNorms qk_norm;
  double clip_qkv = 0;  // > 0: q, k and v are clamped to [-clip, clip], after a full norm
  std::optional<Rope> rope = {};
  std::optional<QueryTemperature> temperature = {};
  std::optional<LatentAttention> latent = {};
  double scale = 1;    // multiplies q . k
  int64_t window = 0;  // > 0: the last so many keys, the query's own included
  int64_t chunk = 0;   // > 0: only keys of the same chunk of positions
  double softcap = 0;
  bool sinks = false;              // a learned logit a head that takes weight and adds no value
  std::vector<double> alibi = {};  // slopes, one a head: slope * (key - query position) is added
  // The result times sigmoid(gate . x), one gate an element; its rows follow each head's in q.
  bool output_gate = false;
};

/// LFM2's gated short convolution: out(c * conv(b * x)), with b, c and x from one projection and a
/// depthwise causal convolution.
struct ShortConv {
  int64_t kernel = 0;  // tokens, the current one included
  bool bias = false;   // of all three parts
};

/// Qwen3-Next's linear attention: q, k and v go through a depthwise causal convolution, the gated
/// delta rule, and a norm per head that is gated by silu(z).
struct GatedDeltaNet {
  int64_t key_heads = 0;
  int64_t heads = 0;  // of values; a multiple of key_heads
  int64_t key_dim = 0, value_dim = 0;
  int64_t kernel = 0;  // of the convolution
  std::string activation = "silu";
  Norm norm;
};

struct DenseMlp {
  int64_t width = 0;
  std::string activation = "silu";  // a function of ir/expr.h
  bool gated = true;                // act(gate(x)) * up(x); else act(up(x))
  bool bias = false;
};

struct MoeMlp {
  int64_t experts = 0;
  int64_t width = 0;                // of one expert
  std::string activation = "silu";  // act(gate(x)) * up(x)
  std::string inner;                // or this expression of x0 (gate) and x1 (up)
  ir::TopkGateAttrs gate;           // k, score, normalisation, groups
  bool router_bias = false;
  bool selection_bias = false;
  bool expert_bias = false;
  bool gated = true;                      // else act(up(x))
  std::optional<DenseMlp> residual = {};  // runs on every token; see CheckpointNames::coefficient
  bool weight_on_input = false;           // a route's weight multiplies what its expert reads
  std::optional<DenseMlp> shared = {};    // runs on every token, added to the routes' sum
  bool shared_gate = false;               // times sigmoid(gate . x)
};

/// Where norms stand. Each is optional; `sum` norms are of the stream after the addition.
struct Layer {
  std::optional<Norm> attention_norm, attention_out_norm, attention_sum_norm;
  Attention attention;
  /// Takes attention's place, its norms included.
  std::variant<std::monostate, ShortConv, GatedDeltaNet> recurrent = {};
  std::optional<Norm> mlp_norm, mlp_out_norm, mlp_sum_norm;
  std::variant<DenseMlp, MoeMlp> mlp;
  /// Attention and MLP both read the layer's input; without mlp_norm the MLP reads what attention
  /// does.
  bool parallel = false;
  /// The stream that attention and MLP are added to is the normed one.
  bool residual_of_norm = false;
};

/// Paths of a dense MLP's weights, without ".weight". With `gate_up`, both are in one matrix, gate
/// rows first.
struct MlpNames {
  std::string gate, up, down, gate_up;
};

/// Where an expert's weights are in the checkpoint, relative to the layer's prefix.
struct MoeNames {
  enum class Layout {
    rows,              // [E, N, K] as Shunt has them
    columns,           // [E, K, N]
    interleaved,       // [E, K, N], gate and up columns in turn
    interleaved_rows,  // [E, N, K], gate and up rows in turn
    flat,              // gate and up [E*I, H], down [E*I, H]
  };
  std::string module;  // "mlp": for messages and loc
  std::string router;  // [E, H]
  std::string router_bias = {}, selection_bias = {};
  // One tensor an expert ('*' is its number): gate and up [I, H], down [H, I].
  std::string gate = {}, up = {}, down = {};
  // Or all experts in one tensor: gate_up, gate rows first, and down; then gate and up are empty.
  std::string gate_up = {};
  Layout layout = Layout::rows;
  std::string gate_up_bias = {}, down_bias = {};  // [E, 2I] in the order of gate_up, [E, H]
  std::string up_bias = {};  // without gate: one tensor [I] an expert, and down_bias [H]
};

enum class QkvLayout {
  separate,
  concat,   // one matrix: rows of q, of k, of v
  grouped,  // one matrix: for each kv head the rows of its q heads, of its k, of its v
};

/// Names of checkpoint tensors. Those of a layer are relative to `layer` + its number + ".".
struct CheckpointNames {
  std::string embedding = "model.embed_tokens.weight";  // [V, H]
  std::string positions, token_types;                   // tables of learned positions and types
  std::string embedding_norm;
  std::string project_in, project_out;     // between the table's width and the stream's
  std::string final_norm = "model.norm";   // + ".weight", ".bias"
  std::string lm_head = "lm_head.weight";  // [V, H]; unused with tied embeddings
  std::string lm_head_bias;
  std::string head_dense, head_norm;  // of a head with a layer of its own
  std::string layer = "model.layers.";
  std::string attention_norm = "input_layernorm", attention_out_norm, attention_sum_norm;
  std::string mlp_norm = "post_attention_layernorm", mlp_out_norm, mlp_sum_norm;
  std::string attention = "self_attn";  // for loc
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj",
              o = "self_attn.o_proj";
  QkvLayout qkv_layout = QkvLayout::separate;
  std::string qkv;  // unless separate
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
  std::string sinks = "self_attn.sinks";
  std::string recurrent;    // module of a recurrent layer's weights
  std::string mlp = "mlp";  // for loc
  MlpNames dense = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", ""};
  MlpNames shared = {};
  std::string shared_gate;  // [1, H]
  // Residual MoE (DeepSpeed): experts * p0 + dense * p1, p = softmax(coefficient . x) per token,
  // with `residual` naming the dense MLP. Weight [2, H], bias [2].
  MlpNames residual = {};
  std::string coefficient;
  bool columns = false;  // matrices of attention and dense MLP are [in, out] (GPT-2's Conv1D)
  /// Layouts in use; the first one the checkpoint has is taken.
  std::vector<MoeNames> moe;
};

/// What stands between the last layer and the logits besides the final norm: dense, activation,
/// norm.
struct HeadTransform {
  std::string activation;
  Norm norm;
};

struct Architecture {
  std::string family;  // "mixtral"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t embedding_size = 0;    // of the embedding table's rows; 0: hidden_size
  int64_t max_positions = 0;     // the longest sequence the model was made for
  bool tied_embeddings = false;  // lm_head is the embedding table
  double embedding_scale = 1;
  int64_t position_rows = 0;    // learned positions: rows of the table, and
  int64_t position_offset = 0;  // the row of position 0
  int64_t token_types = 0;      // rows of that table; every token has type 0
  std::optional<Norm> embedding_norm = {};
  double residual_scale = 1;  // multiplies what attention and MLP add to the residual stream
  double logit_scale = 1;
  double logit_softcap = 0;  // > 0: softcap * tanh(logit / softcap)
  bool lm_head_bias = false;
  bool causal = true;  // false: an encoder, whose tokens all see each other
  std::optional<HeadTransform> head = {};
  bool has_head = true;  // false: the result is the hidden states
  std::vector<Layer> layers;
  std::optional<Norm> final_norm = Norm{};
  bool hidden_before_norm = false;  // the last hidden.N is what final_norm reads, not its result
  CheckpointNames names;
  std::vector<std::string> ignored_prefixes = {};  // of tensors that are known and left out
  double init_stddev = 0.02;                       // of --dummy-weights
  Quantization quantization = {};                  // of the checkpoint
  DType config_dtype = DType::bf16;  // of the weights, as the config says; dummy weights have it
};

}  // namespace shunt
