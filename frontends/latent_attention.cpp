// DeepSeek's latent attention from its compressed cache: a token's row is the normed latent and the
// rotated part of the key, both shared by all heads. A head's keys and values are linear in the
// latent, so its key matrix is applied to the query instead and its value matrix to what attention
// returns; attention then has one wide key head, whose rows begin with its values.
//
// Prompts run in this form too. With keys and values of every head expanded attention itself would
// cost a third (DeepSeek-V2: 320 instead of 1088 multiply-adds a head and key), but past tokens are
// there only as latents, and would have to be expanded again for every chunk of a prompt.
//
// Entry point: build_latent_attention. Tested as frontends/layers.cpp is.
#include "frontends/layers.h"
#include "ir/error.h"

namespace shunt {

using ir::OpKind;
using ir::Value;

namespace {

class LatentBuilder {
 public:
  explicit LatentBuilder(LayerParts& parts)
      : p_(parts),
        ctx_(parts.ctx),
        a_(parts.layer.attention),
        m_(*parts.layer.attention.latent),
        rope_dim_(a_.head_dim - m_.nope_dim) {}

  Value* build(Value* x) {
    SHUNT_CHECK(a_.rope.has_value() && ctx_.arch.causal, "latent attention without rotation");
    const auto [key_weight, value_weight] = head_weights();
    Value* q = query(x, key_weight);
    Value* row = cache_row(x);
    Value* cache =
        ctx_.module.add_state(p_.prefix + "kv", {ctx_.activation, {1, m_.kv_rank + rope_dim_}});
    ctx_.step.op(OpKind::kv_append, {row, nullptr, ctx_.positions, ctx_.seq_starts,
                                     ctx_.block_tables, cache, nullptr});
    ir::AttentionAttrs attrs;
    attrs.scale = a_.scale;
    attrs.value_dim = m_.kv_rank;
    Value* mixed = ctx_.step.value(
        OpKind::attention,
        {q, ctx_.seq_starts, ctx_.kv_lens, ctx_.block_tables, cache, nullptr, nullptr}, attrs,
        p_.prefix + "attention");
    mixed = heads(mixed, a_.heads, m_.kv_rank, "mixed_heads");
    mixed = head_linear(mixed, value_weight, "values");
    mixed = ctx_.step.value(OpKind::reshape, {mixed},
                            ir::ReshapeAttrs{{x->type.shape[0], a_.heads * m_.value_dim}},
                            p_.prefix + "mixed");
    return p_.linear(mixed, "o_proj", p_.names.o, ctx_.arch.hidden_size, a_.o_bias);
  }

 private:
  Value* slice(Value* x, int64_t axis, int64_t begin, int64_t end, const std::string& name) {
    return ctx_.step.value(OpKind::slice, {x}, ir::SliceAttrs{axis, begin, end}, p_.prefix + name);
  }
  Value* heads(Value* x, int64_t count, int64_t dim, const std::string& name) {
    return ctx_.step.value(OpKind::reshape, {x}, ir::ReshapeAttrs{{x->type.shape[0], count, dim}},
                           p_.prefix + name);
  }
  Value* join(const std::vector<Value*>& parts, int64_t axis, const std::string& name) {
    return ctx_.step.value(OpKind::concat, parts, ir::AxisAttrs{axis}, p_.prefix + name);
  }

  Value* head_linear(Value* x, Value* weight, const std::string& name) {
    return ctx_.step.value(OpKind::head_linear, {x, weight}, ir::HeadLinearAttrs{ctx_.activation},
                           p_.prefix + name);
  }

  /// The two parts of kv_b, which has nope_dim rows for the key of each head, then value_dim for
  /// its value: [heads, kv_rank, nope_dim], as it meets the query, and [heads, value_dim, kv_rank].
  std::pair<Value*, Value*> head_weights() {
    const std::string name = p_.tensor("self_attn.kv_b_proj") + ".weight";
    const int64_t rows = m_.nope_dim + m_.value_dim;
    const auto part = [&](int64_t begin, int64_t end, bool transposed) {
      return [=, this](ir::GraphBuilder& load, Value* whole) {
        Value* w =
            load.value(OpKind::reshape, {whole}, ir::ReshapeAttrs{{a_.heads, rows, m_.kv_rank}});
        w = load.value(OpKind::slice, {w}, ir::SliceAttrs{1, begin, end});
        return transposed ? load.value(OpKind::transpose, {w}) : w;
      };
    };
    const Weights::Shape whole = {a_.heads * rows, m_.kv_rank};
    Value* keys =
        ctx_.weights.derived(p_.prefix + "kv_b_keys", name, whole,
                             {a_.heads, m_.kv_rank, m_.nope_dim}, part(0, m_.nope_dim, true));
    Value* values =
        ctx_.weights.derived(p_.prefix + "kv_b_values", name, whole,
                             {a_.heads, m_.value_dim, m_.kv_rank}, part(m_.nope_dim, rows, false));
    return {keys, values};
  }

  /// [T, heads, kv_rank + rope_dim]: each head's query, its plain part as it meets the latent.
  Value* query(Value* x, Value* key_weight) {
    const int64_t width = a_.heads * a_.head_dim;
    Value* q = nullptr;
    if (m_.q_rank == 0) {
      q = p_.linear(x, "q_proj", p_.names.q, width, false);
    } else {
      q = p_.linear(x, "q_a", "self_attn.q_a_proj", m_.q_rank, a_.qkv_bias);
      q = p_.norm(m_.norm, q, "q_a_norm", "self_attn.q_a_layernorm");
      p_.at(p_.names.attention);
      q = p_.linear(q, "q_b", "self_attn.q_b_proj", width, false);
    }
    q = heads(q, a_.heads, a_.head_dim, "q_heads");
    Value* plain = slice(q, 2, 0, m_.nope_dim, "q_plain");
    Value* turned = slice(q, 2, m_.nope_dim, a_.head_dim, "q_turning");
    turned = build_rope(p_, *a_.rope, turned, p_.prefix + "q_rope");
    return join({head_linear(plain, key_weight, "q_latent"), turned}, 2, "q");
  }

  /// [T, 1, kv_rank + rope_dim]: what the cache keeps of a token.
  Value* cache_row(Value* x) {
    Value* both =
        p_.linear(x, "kv_a", "self_attn.kv_a_proj_with_mqa", m_.kv_rank + rope_dim_, a_.qkv_bias);
    Value* latent = slice(both, 1, 0, m_.kv_rank, "kv_latent");
    Value* turned = slice(both, 1, m_.kv_rank, m_.kv_rank + rope_dim_, "k_turning");
    latent = p_.norm(m_.norm, latent, "kv_a_norm", "self_attn.kv_a_layernorm");
    p_.at(p_.names.attention);
    turned = build_rope(p_, *a_.rope, heads(turned, 1, rope_dim_, "k_turning_head"),
                        p_.prefix + "k_rope");
    return join({heads(latent, 1, m_.kv_rank, "kv_latent_head"), turned}, 2, "kv_row");
  }

  LayerParts& p_;
  StepContext& ctx_;
  const Attention& a_;
  const LatentAttention& m_;
  int64_t rope_dim_;
};

}  // namespace

Value* build_latent_attention(LayerParts& parts, Value* x) { return LatentBuilder(parts).build(x); }

}  // namespace shunt
