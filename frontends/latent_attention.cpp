// DeepSeek's latent attention, with keys and values of every head expanded before they are cached.
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
    Value* q = query(x);
    const auto [k, v] = key_and_value(x);
    Value* keys =
        ctx_.module.add_state(p_.prefix + "k", {ctx_.activation, {a_.heads, a_.head_dim}});
    Value* values =
        ctx_.module.add_state(p_.prefix + "v", {ctx_.activation, {a_.heads, m_.value_dim}});
    ctx_.step.op(OpKind::kv_append,
                 {k, v, ctx_.positions, ctx_.seq_starts, ctx_.block_tables, keys, values});
    ir::AttentionAttrs attrs;
    attrs.scale = a_.scale;
    Value* mixed = ctx_.step.value(
        OpKind::attention,
        {q, ctx_.seq_starts, ctx_.kv_lens, ctx_.block_tables, keys, values, nullptr}, attrs,
        p_.prefix + "attention");
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

  Value* query(Value* x) {
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
    return join({plain, turned}, 2, "q");
  }

  std::pair<Value*, Value*> key_and_value(Value* x) {
    Value* both =
        p_.linear(x, "kv_a", "self_attn.kv_a_proj_with_mqa", m_.kv_rank + rope_dim_, a_.qkv_bias);
    Value* latent = slice(both, 1, 0, m_.kv_rank, "kv_latent");
    Value* turned = slice(both, 1, m_.kv_rank, m_.kv_rank + rope_dim_, "k_turning");
    latent = p_.norm(m_.norm, latent, "kv_a_norm", "self_attn.kv_a_layernorm");
    p_.at(p_.names.attention);
    turned = build_rope(p_, *a_.rope, heads(turned, 1, rope_dim_, "k_turning_head"),
                        p_.prefix + "k_rope");
    // The rotated part of the key is the same for all heads.
    const std::vector<Value*> copies(static_cast<size_t>(a_.heads), turned);
    turned = a_.heads == 1 ? turned : join(copies, 1, "k_rope_heads");
    Value* kv = p_.linear(latent, "kv_b", "self_attn.kv_b_proj",
                          a_.heads * (m_.nope_dim + m_.value_dim), false);
    kv = heads(kv, a_.heads, m_.nope_dim + m_.value_dim, "kv_heads");
    Value* plain = slice(kv, 2, 0, m_.nope_dim, "k_plain");
    Value* v = slice(kv, 2, m_.nope_dim, m_.nope_dim + m_.value_dim, "v");
    return {join({plain, turned}, 2, "k"), v};
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
