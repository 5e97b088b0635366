// Attention as logical ops: projections, norms of q and k, rotation, the append to the KV states.
// Entry points: build_attention, build_rope. Tested as frontends/layers.cpp is.
#include <cmath>

#include "frontends/layers.h"
#include "ir/error.h"

namespace shunt {

using ir::OpKind;
using ir::Value;

Value* build_rope(LayerParts& parts, const Rope& rope, Value* x, const std::string& name) {
  StepContext& ctx = parts.ctx;
  Value* table = nullptr;
  for (const auto& [known, frequencies] : ctx.ropes) {
    if (known == rope) table = frequencies;
  }
  if (table == nullptr) {
    const size_t count = ctx.ropes.size();
    table = ctx.weights.constant(count == 0 ? "inv_freq" : fmt::format("inv_freq.{}", count),
                                 inverse_frequencies(rope, ctx.max_model_len));
    ctx.ropes.emplace_back(rope, table);
  }
  return ctx.step.value(OpKind::rope, {x, ctx.positions, table},
                        ir::RopeAttrs{rope.interleaved, rope_scale(rope, ctx.max_model_len)}, name);
}

namespace {

class AttentionBuilder {
 public:
  explicit AttentionBuilder(LayerParts& parts)
      : p_(parts), ctx_(parts.ctx), a_(parts.layer.attention) {}

  Value* build(Value* x) {
    Value* q = a_.output_gate ? gated_half(x, "q_proj", 0) : projection(x, 'q');
    Value* gate = a_.output_gate ? gated_half(x, "output_gate", 1) : nullptr;
    Value* k = projection(x, 'k');
    Value* v = projection(x, 'v');
    if (a_.temperature) q = tempered(q);
    q = shape_heads(q, a_.heads, "q", p_.names.q_norm);
    k = shape_heads(k, a_.kv_heads, "k", p_.names.k_norm);
    v = heads(clip(v, "v_clip"), a_.kv_heads, "v_heads");
    Value* mixed = ctx_.arch.causal ? cached(q, k, v) : bidirectional(q, k, v);
    if (gate != nullptr)
      mixed = p_.pointwise("x0 * sigmoid(x1)", {mixed, gate}, p_.prefix + "gated");
    return p_.linear(mixed, "o_proj", p_.names.o, ctx_.arch.hidden_size, a_.o_bias);
  }

 private:
  // ---- projections ----

  Value* projection(Value* x, char part) {
    const int64_t rows = (part == 'q' ? a_.heads : a_.kv_heads) * a_.head_dim;
    const std::string name = fmt::format("{}_proj", part);
    const CheckpointNames& n = p_.names;
    if (n.qkv_layout == QkvLayout::separate) {
      return p_.linear(x, name, part == 'q' ? n.q : part == 'k' ? n.k : n.v, rows, a_.qkv_bias);
    }
    const ir::LinearAttrs attrs{"", false, ctx_.activation};
    const std::string value = p_.prefix + name;
    Value* weight = part_of(part, value, ".weight", ctx_.arch.hidden_size);
    if (!a_.qkv_bias) return ctx_.step.value(OpKind::linear, {x, weight}, attrs, value);
    Value* bias = part_of(part, value + "_bias", ".bias", 0);
    Value* product = ctx_.step.value(OpKind::linear, {x, weight}, attrs, value + "_matmul");
    return p_.pointwise("x0 + x1", {product, bias}, value);
  }

  /// The projection of q (0) or of the output's gate (1), whose rows take turns by heads.
  Value* gated_half(Value* x, const char* name, int64_t which) {
    SHUNT_CHECK(p_.names.qkv_layout == QkvLayout::separate, "an output gate in joint QKV");
    const int64_t d = a_.head_dim, rows = a_.heads * d;
    const auto half = [&](const std::string& param, const char* suffix, Weights::Shape tail) {
      const auto shape = [&](std::vector<int64_t> first) {
        first.insert(first.end(), tail.begin(), tail.end());
        return first;
      };
      const auto sizes = [&](std::vector<int64_t> first) {
        const std::vector<int64_t> s = shape(std::move(first));
        return ir::ReshapeAttrs{{s.begin(), s.end()}};
      };
      return ctx_.weights.derived(
          param, p_.tensor(p_.names.q) + suffix, shape({2 * rows}), shape({rows}),
          [&](ir::GraphBuilder& load, Value* all) {
            Value* split = load.value(OpKind::reshape, {all}, sizes({a_.heads, 2 * d}));
            Value* mine =
                load.value(OpKind::slice, {split}, ir::SliceAttrs{1, which * d, (which + 1) * d});
            return load.value(OpKind::reshape, {mine}, sizes({rows}));
          });
    };
    const std::string value = p_.prefix + name;
    Value* weight = half(value, ".weight", {ctx_.arch.hidden_size});
    const ir::LinearAttrs attrs{"", false, ctx_.activation};
    if (!a_.qkv_bias) return ctx_.step.value(OpKind::linear, {x, weight}, attrs, value);
    Value* bias = half(value + "_bias", ".bias", {});
    Value* product = ctx_.step.value(OpKind::linear, {x, weight}, attrs, value + "_matmul");
    return p_.pointwise("x0 + x1", {product, bias}, value);
  }

  /// The rows of q, k or v of the joint tensor: a matrix [rows, columns], or with columns = 0 a
  /// vector [rows].
  Value* part_of(char part, const std::string& param, const char* suffix, int64_t columns) {
    const int64_t group = a_.heads / a_.kv_heads, d = a_.head_dim;
    const auto shape = [&](std::vector<int64_t> dims) {
      if (columns > 0) dims.push_back(columns);
      return dims;
    };
    const auto dims = [&](const std::vector<int64_t>& s) {
      return std::vector<Dim>(s.begin(), s.end());
    };
    const int64_t rows = (part == 'q' ? a_.heads : a_.kv_heads) * d;
    const Weights::Make concat = [&](ir::GraphBuilder& load, Value* all) {
      const int64_t begin = part == 'q'   ? 0
                            : part == 'k' ? a_.heads * d
                                          : (a_.heads + a_.kv_heads) * d;
      return load.value(OpKind::slice, {all}, ir::SliceAttrs{0, begin, begin + rows});
    };
    const Weights::Make grouped = [&](ir::GraphBuilder& load, Value* all) {
      const int64_t begin = part == 'q' ? 0 : part == 'k' ? group : group + 1;
      const int64_t end = part == 'q' ? group : begin + 1;
      Value* split = load.value(OpKind::reshape, {all},
                                ir::ReshapeAttrs{dims(shape({a_.kv_heads, group + 2, d}))});
      Value* mine = load.value(OpKind::slice, {split}, ir::SliceAttrs{1, begin, end});
      return load.value(OpKind::reshape, {mine}, ir::ReshapeAttrs{dims(shape({rows}))});
    };
    return ctx_.weights.derived(param, p_.tensor(p_.names.qkv) + suffix,
                                shape({(a_.heads + 2 * a_.kv_heads) * d}), shape({rows}),
                                p_.names.qkv_layout == QkvLayout::concat ? concat : grouped,
                                columns > 0 && p_.names.columns);
  }

  // ---- what happens to q, k and v ----

  Value* clip(Value* x, const std::string& name) {
    const double c = a_.clip_qkv;
    return c > 0 ? p_.pointwise(fmt::format("clamp(x0, -{0}, {0})", c), {x}, p_.prefix + name) : x;
  }

  Value* heads(Value* x, int64_t count, const std::string& name) {
    const ir::ReshapeAttrs attrs{{x->type.shape[0], count, a_.head_dim}};
    return ctx_.step.value(OpKind::reshape, {x}, attrs, p_.prefix + name);
  }

  Value* head_norm(Value* x, const std::string& name, const std::string& path) {
    const HeadNorms& n = a_.qk_norm;
    const int64_t size = x->type.last().constant();
    const std::string value = p_.prefix + name + "_norm";
    const ir::NormAttrs attrs{n.eps, n.plus_one};
    if (!n.has_weight) {
      if (ones_ == nullptr) {
        ones_ = ctx_.weights.constant(p_.prefix + "qk_ones",
                                      std::vector<double>(static_cast<size_t>(size), 1.0));
      }
      return ctx_.step.value(OpKind::rms_norm, {x, ones_}, attrs, value);
    }
    Value* weight = n.plus_one ? ctx_.weights.tensor(value, p_.tensor(path) + ".weight", {size})
                               : ctx_.weights.norm(value, p_.tensor(path) + ".weight", size);
    if (n.kind == ir::NormKind::rms)
      return ctx_.step.value(OpKind::rms_norm, {x, weight}, attrs, value);
    Value* bias = ctx_.weights.tensor(value + "_bias", p_.tensor(path) + ".bias", {size});
    return ctx_.step.value(OpKind::layer_norm, {x, weight, bias}, attrs, value);
  }

  /// Norm, clamp, split into heads and rotation of q or k.
  Value* shape_heads(Value* x, int64_t count, const std::string& name, const std::string& path) {
    const HeadNorms& n = a_.qk_norm;
    if (n.over == ir::HeadNorm::full) x = head_norm(x, name, path);
    x = heads(clip(x, name + "_clip"), count, name + "_heads");
    if (n.over == ir::HeadNorm::head && !n.after_rope) x = head_norm(x, name, path);
    if (a_.rope) x = build_rope(p_, *a_.rope, x, p_.prefix + name + "_rope");
    if (n.over == ir::HeadNorm::head && n.after_rope) x = head_norm(x, name, path);
    return x;
  }

  /// q times a factor that depends on the position alone: looked up in a table.
  Value* tempered(Value* q) {
    Value* table = nullptr;
    for (const auto& [known, made] : ctx_.temperatures) {
      if (known == *a_.temperature) table = made;
    }
    if (table == nullptr) {
      std::vector<double> scales;
      for (int64_t p = 0; p < ctx_.max_model_len; ++p) {
        const float steps = std::floor((static_cast<float>(p) + 1.0f) /
                                       static_cast<float>(a_.temperature->floor_scale));
        scales.push_back(std::log1p(steps) * static_cast<float>(a_.temperature->attn_scale) + 1.0f);
      }
      const size_t count = ctx_.temperatures.size();
      table = ctx_.weights.constant(
          count == 0 ? "query_scales" : fmt::format("query_scales.{}", count), scales, true);
      ctx_.temperatures.emplace_back(*a_.temperature, table);
    }
    Value* scale = ctx_.step.value(OpKind::embedding, {ctx_.positions, table},
                                   ir::EmbeddingAttrs{DType::f32, 0}, p_.prefix + "q_scale");
    return p_.pointwise("x0 * x1", {q, scale}, p_.prefix + "q_scaled");
  }

  // ---- attention ----

  Value* sinks() {
    if (!a_.sinks) return nullptr;
    return ctx_.weights.tensor(p_.prefix + "sinks", p_.tensor(p_.names.sinks), {a_.heads});
  }

  ir::AttentionAttrs attrs() const {
    ir::AttentionAttrs attrs;
    attrs.scale = a_.scale;
    attrs.window = a_.window;
    attrs.chunk = a_.chunk;
    attrs.softcap = a_.softcap;
    return attrs;
  }

  Value* cached(Value* q, Value* k, Value* v) {
    const Type row{ctx_.activation, {a_.kv_heads, a_.head_dim}};
    Value* keys = ctx_.module.add_state(p_.prefix + "k", row);
    Value* values = ctx_.module.add_state(p_.prefix + "v", row);
    ctx_.step.op(OpKind::kv_append,
                 {k, v, ctx_.positions, ctx_.seq_starts, ctx_.block_tables, keys, values});
    std::vector<Value*> operands = {q,    ctx_.seq_starts, ctx_.kv_lens, ctx_.block_tables,
                                    keys, values,          sinks()};
    if (!a_.alibi.empty()) operands.push_back(slopes());
    return ctx_.step.value(OpKind::attention, operands, attrs(), p_.prefix + "attention");
  }

  Value* slopes() {
    for (const auto& [known, table] : ctx_.alibis) {
      if (known == a_.alibi) return table;
    }
    const size_t count = ctx_.alibis.size();
    Value* table =
        ctx_.weights.constant(count == 0 ? "slopes" : fmt::format("slopes.{}", count), a_.alibi);
    ctx_.alibis.emplace_back(a_.alibi, table);
    return table;
  }

  Value* bidirectional(Value* q, Value* k, Value* v) {
    SHUNT_CHECK(a_.window == 0 && a_.chunk == 0 && a_.softcap == 0 && !a_.sinks && a_.alibi.empty(),
                "an option of attention that encoders do not have");
    return ctx_.step.value(OpKind::encoder_attention, {q, k, v, ctx_.seq_starts},
                           ir::EncoderAttentionAttrs{a_.scale}, p_.prefix + "attention");
  }

  LayerParts& p_;
  StepContext& ctx_;
  const Attention& a_;
  Value* ones_ = nullptr;  // weight of norms that have none
};

}  // namespace

Value* build_attention(LayerParts& parts, Value* x) { return AttentionBuilder(parts).build(x); }

}  // namespace shunt
