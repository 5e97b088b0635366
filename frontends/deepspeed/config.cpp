// DeepSpeed's config as an Architecture. Entry points: read_checkpoint_spec, read_architecture.
// Tested by tests/frontends/deepspeed_test.cpp.
#include "frontends/deepspeed/config.h"

#include <cmath>

#include "frontends/deepspeed/shards.h"
#include "ir/error.h"

namespace shunt::deepspeed {

using hf::Config;

namespace {

/// Keys that say how DeepSpeed runs, not what the model is; docs/deepspeed.md has a line for each.
void read_keys_without_effect(const Config& c) {
  for (const char* key : {"local_rank", "training_mp_size", "min_out_tokens", "min_tokens",
                          "global_experts", "ep_size", "expert_mp_size", "mp_size"}) {
    c.integer_or({key}, 0, -1, int64_t{1} << 40);
  }
  for (const char* key : {"stochastic_mode", "return_tuple", "return_single_tuple",
                          "set_empty_params", "transposed_mode", "use_triton", "triton_autotune",
                          "invert_mask", "fp16", "bf16", "replace_with_kernel_inject",
                          "kernel_inject", "enable_cuda_graph", "keep_module_on_host"}) {
    c.boolean_or({key}, false);
  }
  for (const char* key : {"replace_method", "save_mp_checkpoint_path", "noisy_gate_policy"})
    c.text_or({key}, "");
  c.number_or({"capacity_factor"}, 1, {0, 1e6});  // of training
  for (const char* name : {"tensor_parallel", "tp"}) {
    if (const auto tp = c.object(name)) {
      tp->boolean_or({"enabled"}, true);
      tp->integer_or({"tp_size"}, 1, 1, 1 << 20);
      tp->integer_or({"tp_grain_size"}, 64, 1, 1 << 20);
    }
  }
}

void refuse(const Config& c, const char* key, const char* message) {
  if (c.boolean_or({key}, false)) c.fail(key, message);
}

void refuse_what_is_missing(const Config& c) {
  const char* int8 = "INT8 weights are not supported; use the bf16, f16 or f32 checkpoint";
  refuse(c, "q_int8", int8);
  refuse(c, "enable_qkv_quantization", int8);
  for (const char* key : {"q_scales", "q_groups", "merge_count"}) {
    if (c.has(key)) c.fail(key, int8);
  }
  if (const auto quant = c.object("quant")) {
    if (quant->boolean_or({"enabled"}, true)) c.fail("quant", int8);
  }
  refuse(c, "bigscience_bloom", "BLOOM is read from its Hugging Face folder, not from DeepSpeed's");
  if (!c.boolean_or({"triangular_masking", "tm"}, true))
    c.fail("triangular_masking", "must be true: only decoders are read from this format");
  if (!c.text_or({"base_dir"}, "").empty())
    c.fail("base_dir", "is not supported: put the files beside ds_inference_config.json");
  if (c.has("injection_policy") || c.has("injection_dict"))
    c.fail("injection_policy", "names Python classes, which are never loaded; remove it");
}

std::string lower(std::string text) {
  for (char& ch : text) ch = static_cast<char>(std::tolower(static_cast<unsigned char>(ch)));
  return text;
}

DType read_dtype(const Config& c) {
  std::string name = lower(c.text_or({"dtype"}, "fp16"));
  if (name.starts_with("torch.")) name = name.substr(6);
  if (name == "bf16" || name == "bfloat16") return DType::bf16;
  if (name == "fp16" || name == "half" || name == "float16") return DType::f16;
  if (name == "fp32" || name == "float" || name == "float32") return DType::f32;
  c.fail("dtype", "is none of bf16, fp16 and fp32, which Shunt computes in");
}

struct Activation {
  std::string name;
  bool gated = false;
};

Activation read_activation(const Config& c) {
  const std::string name = lower(c.text_or({"mlp_act_func_type"}, "gelu"));
  if (name == "gelu") return {"gelu_tanh"};
  if (name == "relu") return {"relu"};
  if (name == "gated_gelu") return {"gelu", true};
  if (name == "gated_silu") return {"silu", true};
  c.fail("mlp_act_func_type", "is none of gelu, relu, gated_gelu and gated_silu");
}

Norm read_norm(const Config& c) {
  const std::string type = lower(c.text_or({"norm_type"}, "layernorm"));
  Norm norm;
  if (type != "layernorm" && type != "rmsnorm")
    c.fail("norm_type", "is neither LayerNorm nor RMSNorm");
  norm.kind = type == "rmsnorm" ? ir::NormKind::rms : ir::NormKind::layer;
  norm.bias = norm.kind == ir::NormKind::layer;
  norm.eps = c.number_or({"layer_norm_eps", "epsilon"}, 1e-12, {0, 1});
  return norm;
}

Attention read_attention(const Config& c, int64_t hidden) {
  Attention a;
  a.heads = c.integer({"heads"}, 1, hf::kMaxHeads);
  if (hidden % a.heads != 0)
    c.fail("heads", fmt::format("{} does not divide hidden_size {}", a.heads, hidden));
  a.head_dim = hidden / a.heads;
  a.kv_heads = a.heads;
  const int64_t kv = c.integer_or({"num_kv"}, -1, -1, hf::kMaxHeads);
  if (kv > 0 && kv != a.heads)
    c.fail("num_kv", "differs from heads: Megatron's query_key_value has no such layout");
  const double d = static_cast<double>(a.head_dim);
  const bool mup = c.boolean_or({"use_mup"}, false);
  a.scale = !c.boolean_or({"scale_attention"}, true) ? 1 : mup ? 1 / d : 1 / std::sqrt(d);
  const int64_t window = c.integer_or({"window_size"}, 256, 1, hf::kMaxPositions);
  if (c.boolean_or({"local_attention"}, false)) a.window = window;
  const int64_t rotary = c.integer_or({"rotary_dim"}, -1, -1, a.head_dim);
  const bool half = c.boolean_or({"rotate_half"}, false);
  c.boolean_or({"rotate_every_two"}, true);
  const double theta = c.number_or({"rope_theta"}, 10000, {1, 1e15});
  if (rotary > 0) {
    if (rotary % 2 != 0) c.fail("rotary_dim", fmt::format("{} is odd", rotary));
    Rope rope;
    rope.theta = theta;
    rope.rotary_dim = rotary;
    rope.interleaved = !half;
    a.rope = rope;
  }
  return a;
}

/// The gate: docs/deepspeed.md, "The gate".
ir::TopkGateAttrs read_gate(const Config& c, int64_t experts) {
  ir::TopkGateAttrs g;
  g.k = c.integer_or({"k"}, 1, 1, hf::kMaxExperts);
  if (g.k > experts) c.fail("k", fmt::format("{} is more than the {} experts", g.k, experts));
  if (g.k > 1) {
    g.norm = ir::RouteNorm::sum;
    g.norm_min = 0x1p-23;  // float32's epsilon
  }
  const double factor = c.number_or({"eval_capacity_factor"}, 1, {0, 1e6});
  const int64_t least = c.integer_or({"min_capacity"}, 1, 0, int64_t{1} << 30);
  const bool random = c.boolean_or({"use_rts"}, false);
  if (c.boolean_or({"drop_tokens"}, true)) {
    g.drop = g.k > 2 ? ir::Drop::score : g.k == 1 && random ? ir::Drop::random : ir::Drop::order;
    g.capacity_factor = factor;
    g.min_capacity = least;
  }
  g.sample_second = c.boolean_or({"top2_2nd_expert_sampling"}, false) && g.k == 2;
  g.seed = c.integer_or({"seed"}, 0, 0, int64_t{1} << 62);
  return g;
}

int64_t read_experts(const Config& c) {
  std::vector<int64_t> counts = c.integers({"moe_experts", "num_experts"});
  if (const auto moe = c.object("moe")) {
    moe->boolean_or({"enabled"}, true);
    moe->integer_or({"ep_size"}, 1, 1, 1 << 20);
    const std::vector<int64_t> more = moe->integers({"moe_experts", "num_experts"});
    if (counts.empty()) counts = more;
  }
  for (const int64_t n : counts) {
    if (n != counts[0]) c.fail("moe_experts", "layers with different numbers of experts");
    if (n < 1 || n > hf::kMaxExperts) c.fail("moe_experts", fmt::format("{} experts", n));
  }
  return counts.empty() ? 1 : counts[0];
}

MoeMlp read_moe(const Config& c, const DenseMlp& dense, int64_t experts) {
  MoeMlp moe;
  moe.experts = experts;
  moe.width = dense.width;
  moe.activation = dense.activation;
  moe.gated = false;
  moe.expert_bias = dense.bias;
  moe.gate = read_gate(c, experts);
  const std::string type = lower(c.text_or({"mlp_type", "moe_type"}, "standard"));
  if (type == "residual") {
    moe.residual = dense;
  } else if (type != "standard") {
    c.fail("mlp_type", "is neither standard nor residual");
  }
  return moe;
}

CheckpointNames make_names() {
  CheckpointNames n;
  n.embedding = "embedding";
  n.positions = "positions";
  n.final_norm = "final_norm";
  n.lm_head = "lm_head";
  n.layer = "layers.";
  n.attention_norm = "input_layernorm";
  n.mlp_norm = "post_attention_layernorm";
  n.attention_sum_norm = "post_attention_layernorm";
  n.mlp_sum_norm = "input_layernorm";
  n.attention = "attention";
  n.q = "attention.q";
  n.k = "attention.k";
  n.v = "attention.v";
  n.o = "attention.dense";
  n.dense = {"mlp.gate", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", ""};
  n.residual = {"", "mlp.mlp.dense_h_to_4h", "mlp.mlp.dense_4h_to_h", ""};
  n.coefficient = "mlp.coefficient";
  MoeNames moe;
  moe.module = "mlp";
  moe.router = "router.weight";
  moe.up = "experts.*.up.weight";
  moe.down = "experts.*.down.weight";
  moe.up_bias = "experts.*.up.bias";
  moe.down_bias = "experts.*.down.bias";
  n.moe = {moe};
  return n;
}

void place_norms(const Config& c, const Norm& norm, const Shards* shards, Layer& layer) {
  const bool pre = c.boolean_or({"pre_layer_norm"}, true);
  layer.parallel = !c.boolean_or({"mlp_after_attn"}, true);
  if (!pre) {
    if (layer.parallel) c.fail("mlp_after_attn", "must be true with pre_layer_norm = false");
    layer.attention_sum_norm = layer.mlp_sum_norm = norm;
    return;
  }
  layer.attention_norm = norm;
  const bool second = shards == nullptr || shards->has("layers.0.post_attention_layernorm.weight");
  if (!layer.parallel || second) layer.mlp_norm = norm;
}

}  // namespace

CheckpointSpec read_checkpoint_spec(const Config& config) {
  CheckpointSpec spec;
  const auto c = config.object("checkpoint");
  if (!c) {
    spec.files = {"mp_rank_00_model_states.pt"};
    return spec;
  }
  const std::string type = lower(c->text_or({"type"}, "megatron"));
  if (type != "megatron")
    c->fail("type", "is not Megatron; other models are read from their Hugging Face folder");
  spec.version = c->number_or({"version"}, -1, {0, 100});
  const std::string parallel = c->text_or({"parallelization"}, "tp");
  spec.files = c->texts({"checkpoints"});
  if (spec.files.empty()) c->fail("checkpoints", "is empty: it lists one file a rank");
  if (parallel != "tp" && spec.files.size() > 1)
    c->fail("parallelization", "is not tp; layers split over files are not supported");
  const auto ranks = static_cast<int64_t>(spec.files.size());
  if (c->integer_or({"tp_size", "mp_size"}, ranks, 1, 1 << 20) != ranks)
    c->fail("tp_size", fmt::format("differs from the {} files of checkpoints", ranks));
  if (!c->text_or({"base_dir"}, "").empty())
    c->fail("base_dir", "is not supported: put the files beside ds_inference_config.json");
  c->text_or({"dtype"}, "");
  spec.experts = c->text_or({"expert_checkpoints"}, spec.experts);
  return spec;
}

Architecture read_architecture(const Config& c, const Shards* shards) {
  refuse_what_is_missing(c);
  read_keys_without_effect(c);
  Architecture a;
  a.names = make_names();
  a.hidden_size = c.integer({"hidden_size"}, 1, hf::kMaxHidden);
  const int64_t rows = shards != nullptr ? shards->vocabulary() : 0;
  a.vocab_size = c.integer_or({"vocab_size"}, rows, 1, hf::kMaxVocab);
  if (a.vocab_size == 0) c.fail("vocab_size", "is needed without a checkpoint");
  const int64_t most = c.integer_or({"max_out_tokens", "max_tokens"}, 0, 1, hf::kMaxPositions);
  const int64_t positions = c.integer_or({"max_position_embeddings"}, 0, 1, hf::kMaxPositions);
  const bool learned = shards == nullptr ? positions > 0 : shards->has("positions.weight");
  if (learned && positions == 0) c.fail("max_position_embeddings", "is missing");
  a.position_rows = learned ? positions : 0;
  a.max_positions = most > 0 && positions > 0 ? std::min(most, positions)
                    : most > 0                ? most
                    : positions > 0           ? positions
                                              : 1024;
  a.tied_embeddings = shards == nullptr || !shards->has("lm_head");
  a.config_dtype = shards != nullptr ? shards->dtype() : read_dtype(c);
  read_dtype(c);

  const Norm norm = read_norm(c);
  const bool bias = shards == nullptr || shards->has("layers.0.attention.dense.bias");
  Layer layer;
  place_norms(c, norm, shards, layer);
  layer.attention = read_attention(c, a.hidden_size);
  layer.attention.qkv_bias = layer.attention.o_bias = bias;
  const Activation act = read_activation(c);
  DenseMlp dense;
  const int64_t inner = c.integer_or({"intermediate_size"}, -1, -1, hf::kMaxWidth);
  dense.width = inner > 0 ? inner : 4 * a.hidden_size;
  dense.activation = act.name;
  dense.gated = act.gated;
  dense.bias = bias && !act.gated;
  if (act.gated) a.names.dense.up = "mlp.up";

  const int64_t experts = read_experts(c);
  const MoeMlp moe = read_moe(c, dense, experts);
  if (experts > 1 && act.gated)
    c.fail("mlp_act_func_type", "gated activations are not supported in DeepSpeed experts");
  const int64_t interval = c.integer_or({"expert_interval"}, 1, 1, hf::kMaxLayers);
  const bool inverse = c.boolean_or({"scale_attn_by_inverse_layer_idx"}, false);
  const int64_t count = c.integer({"num_hidden_layers"}, 1, hf::kMaxLayers);
  for (int64_t i = 0; i < count; ++i) {
    const bool routed = experts > 1 && (i + 1) % interval == 0;
    if (shards != nullptr && shards->is_moe(i) != routed) {
      c.fail("expert_interval",
             fmt::format("says that layer {} has {} experts, the checkpoint differs", i,
                         routed ? "" : "no"));
    }
    Layer& l = a.layers.emplace_back(layer);
    if (inverse) l.attention.scale /= static_cast<double>(i + 1);
    if (routed) {
      l.mlp = moe;
    } else {
      l.mlp = dense;
    }
  }
  const bool last = shards == nullptr || shards->has("final_norm.weight");
  a.hidden_before_norm = true;  // as Megatron counts them
  a.final_norm = last ? std::optional(norm) : std::nullopt;
  return a;
}

}  // namespace shunt::deepspeed
