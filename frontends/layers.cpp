// Attention, dense MLP and MoE as logical ops. Entry point: build_layer. Tested by the golden
// modules of tests/frontends/families_test.cpp, and against tests/data/conformance by the
// evaluator's tests.
#include "frontends/layers.h"

#include "ir/error.h"

namespace shunt {

using ir::OpKind;
using ir::Value;

namespace {

/// One layer while it is built: names and shorthands.
class LayerBuilder {
 public:
  LayerBuilder(StepContext& ctx, int64_t index)
      : ctx_(ctx),
        layer_(ctx.arch.layers[static_cast<size_t>(index)]),
        names_(ctx.arch.names),
        prefix_(fmt::format("l{}.", index)),
        module_(fmt::format("{}{}", names_.layer, index)) {}

  Value* build(Value* x, const std::string& result_name) {
    Value* normed = norm(layer_.attention_norm, x, "attention_norm", names_.attention_norm);
    at(names_.attention);
    Value* mixed = attention(normed);
    ctx_.step.set_loc(module_);
    x = residual(x, mixed, prefix_ + "mid");
    normed = norm(layer_.mlp_norm, x, "mlp_norm", names_.mlp_norm);
    at(names_.mlp);
    const auto* moe = std::get_if<MoeMlp>(&layer_.mlp);
    Value* mlp =
        moe != nullptr ? experts(*moe, normed) : dense(std::get<DenseMlp>(layer_.mlp), normed);
    ctx_.step.set_loc(module_);
    return residual(x, mlp, result_name);
  }

 private:
  void at(const std::string& part) { ctx_.step.set_loc(module_ + "." + part); }
  std::string tensor(const std::string& name) const { return module_ + "." + name; }

  Value* pointwise(const std::string& expr, std::vector<Value*> operands, const std::string& name) {
    return ctx_.step.value(OpKind::pointwise, std::move(operands),
                           ir::PointwiseAttrs{expr, ctx_.activation}, name);
  }

  Value* norm(const Norm& kind, Value* x, const std::string& name, const std::string& path) {
    at(path);
    return build_norm(ctx_, kind, x, prefix_ + name, tensor(path), prefix_ + name);
  }

  Value* residual(Value* x, Value* y, const std::string& name) {
    const double scale = ctx_.arch.residual_scale;
    return pointwise(scale == 1 ? "x0 + x1" : fmt::format("x0 + {} * x1", scale), {x, y}, name);
  }

  /// x . w^T (+ bias), with w [rows, columns of x] at `path`.weight.
  Value* linear(Value* x, const std::string& name, const std::string& path, int64_t rows,
                bool bias) {
    Value* weight = ctx_.weights.tensor(prefix_ + name, tensor(path) + ".weight",
                                        {rows, x->type.last().constant()});
    const ir::LinearAttrs attrs{"", false, ctx_.activation};
    const std::string value_name = prefix_ + name;
    if (!bias) return ctx_.step.value(OpKind::linear, {x, weight}, attrs, value_name);
    Value* b = ctx_.weights.tensor(prefix_ + name + "_bias", tensor(path) + ".bias", {rows});
    Value* product = ctx_.step.value(OpKind::linear, {x, weight}, attrs, value_name + "_matmul");
    return pointwise("x0 + x1", {product, b}, value_name);
  }

  Value* clip(Value* x, const std::string& name) {
    const double c = layer_.attention.clip_qkv;
    return c > 0 ? pointwise(fmt::format("clamp(x0, -{0}, {0})", c), {x}, name) : x;
  }

  Value* heads(Value* x, int64_t count, const std::string& name) {
    const ir::ReshapeAttrs attrs{{x->type.shape[0], count, layer_.attention.head_dim}};
    return ctx_.step.value(OpKind::reshape, {x}, attrs, name);
  }

  /// Norm, clamp, split into heads and rotation of q or k.
  Value* shape_heads(Value* x, int64_t count, const std::string& name,
                     const std::string& norm_path) {
    const Attention& a = layer_.attention;
    const ir::NormAttrs attrs{a.qk_norm_eps, false};
    const auto normed = [&](int64_t size) {
      Value* weight =
          ctx_.weights.norm(prefix_ + name + "_norm", tensor(norm_path) + ".weight", size);
      return ctx_.step.value(OpKind::rms_norm, {x, weight}, attrs, prefix_ + name + "_norm");
    };
    if (a.qk_norm == ir::HeadNorm::full) x = normed(count * a.head_dim);
    x = heads(clip(x, prefix_ + name + "_clip"), count, prefix_ + name + "_heads");
    if (a.qk_norm == ir::HeadNorm::head) x = normed(a.head_dim);
    if (!a.rope) return x;
    return ctx_.step.value(OpKind::rope, {x, ctx_.positions, frequencies(*a.rope)},
                           ir::RopeAttrs{a.rope->interleaved, 1}, prefix_ + name + "_rope");
  }

  Value* frequencies(const Rope& rope) {
    for (const auto& [known, table] : ctx_.ropes) {
      if (known == rope) return table;
    }
    const size_t count = ctx_.ropes.size();
    const std::string name = count == 0 ? "inv_freq" : fmt::format("inv_freq.{}", count);
    Value* table = ctx_.weights.constant(name, inverse_frequencies(rope));
    ctx_.ropes.emplace_back(rope, table);
    return table;
  }

  Value* attention(Value* x) {
    const Attention& a = layer_.attention;
    Value* q = linear(x, "q_proj", names_.q, a.heads * a.head_dim, a.qkv_bias);
    Value* k = linear(x, "k_proj", names_.k, a.kv_heads * a.head_dim, a.qkv_bias);
    Value* v = linear(x, "v_proj", names_.v, a.kv_heads * a.head_dim, a.qkv_bias);
    q = shape_heads(q, a.heads, "q", names_.q_norm);
    k = shape_heads(k, a.kv_heads, "k", names_.k_norm);
    v = heads(clip(v, prefix_ + "v_clip"), a.kv_heads, prefix_ + "v_heads");
    const Type row{ctx_.activation, {a.kv_heads, a.head_dim}};
    Value* keys = ctx_.module.add_state(prefix_ + "k", row);
    Value* values = ctx_.module.add_state(prefix_ + "v", row);
    ctx_.step.op(OpKind::kv_append,
                 {k, v, ctx_.positions, ctx_.seq_starts, ctx_.block_tables, keys, values});
    const ir::AttentionAttrs attrs{a.scale, a.window, a.chunk, a.softcap};
    Value* mixed = ctx_.step.value(
        OpKind::attention,
        {q, ctx_.seq_starts, ctx_.kv_lens, ctx_.block_tables, keys, values, nullptr}, attrs,
        prefix_ + "attention");
    return linear(mixed, "o_proj", names_.o, ctx_.arch.hidden_size, a.o_bias);
  }

  Value* dense(const DenseMlp& mlp, Value* x) {
    Value* gate = linear(x, "gate", names_.gate, mlp.width, mlp.bias);
    Value* up = linear(x, "up", names_.up, mlp.width, mlp.bias);
    Value* inner = pointwise(mlp.activation + "(x0) * x1", {gate, up}, prefix_ + "inner");
    return linear(inner, "down", names_.down, ctx_.arch.hidden_size, mlp.bias);
  }

  /// The layout that the checkpoint has; the first known one if it has none, so that the error
  /// names a usual tensor.
  const MoeNames& moe_names() const {
    SHUNT_CHECK(!names_.moe.empty(), "family {} has MoE layers and no names for them",
                ctx_.arch.family);
    for (const MoeNames& names : names_.moe) {
      if (ctx_.weights.has(tensor(names.down)) && ctx_.weights.has(tensor(names.router)))
        return names;
    }
    return names_.moe.front();
  }

  struct ExpertWeights {
    Value *gate, *up, *down;  // [E, I, H], [E, I, H], [E, H, I]
  };

  ExpertWeights expert_weights(const MoeMlp& moe, const MoeNames& names) {
    const int64_t hidden = ctx_.arch.hidden_size;
    const std::string p = prefix_ + "experts.";
    if (names.gate.empty()) {
      const auto [gate, up] = ctx_.weights.halves(p + "gate", p + "up", tensor(names.gate_up),
                                                  {moe.experts, moe.width, hidden});
      Value* down =
          ctx_.weights.tensor(p + "down", tensor(names.down), {moe.experts, hidden, moe.width});
      return {gate, up, down};
    }
    Value* gate =
        ctx_.weights.stacked(p + "gate", tensor(names.gate), moe.experts, {moe.width, hidden});
    Value* up = ctx_.weights.stacked(p + "up", tensor(names.up), moe.experts, {moe.width, hidden});
    Value* down =
        ctx_.weights.stacked(p + "down", tensor(names.down), moe.experts, {hidden, moe.width});
    return {gate, up, down};
  }

  Value* experts(const MoeMlp& moe, Value* x) {
    const MoeNames& names = moe_names();
    at(names.module);
    const int64_t number = ctx_.moe_layers++;
    Value* router = ctx_.weights.tensor(prefix_ + "router", tensor(names.router),
                                        {moe.experts, ctx_.arch.hidden_size});
    Value* logits =
        ctx_.step.value(OpKind::linear, {x, router}, ir::LinearAttrs{"", false, DType::f32},
                        fmt::format("router_logits.{}", number));
    Value* forced = nullptr;
    if (ctx_.force_routing) {
      forced = ctx_.step.input(fmt::format("forced.{}", number),
                               {DType::i32, {x->type.shape[0], moe.gate.k}});
    }
    const ir::Op* choice = ctx_.step.op(OpKind::topk_gate, {logits, nullptr, forced}, moe.gate,
                                        {prefix_ + "weights", prefix_ + "ids"});
    Value *weights = choice->result(0), *ids = choice->result(1);
    const ExpertWeights w = expert_weights(moe, names);
    const ir::LinearAttrs attrs{"", false, ctx_.activation};
    Value* gate = ctx_.step.value(OpKind::routed_linear, {x, w.gate, ids}, attrs, prefix_ + "gate");
    Value* up = ctx_.step.value(OpKind::routed_linear, {x, w.up, ids}, attrs, prefix_ + "up");
    Value* inner = pointwise(moe.activation + "(x0) * x1", {gate, up}, prefix_ + "inner");
    Value* down =
        ctx_.step.value(OpKind::routed_linear, {inner, w.down, ids}, attrs, prefix_ + "down");
    return ctx_.step.value(OpKind::combine_routes, {down, weights, ids, nullptr}, {},
                           prefix_ + "moe");
  }

  StepContext& ctx_;
  const Layer& layer_;
  const CheckpointNames& names_;
  std::string prefix_;  // of parameters and values: "l3."
  std::string module_;  // of checkpoint tensors: "model.layers.3"
};

}  // namespace

Value* build_norm(StepContext& ctx, const Norm& norm, Value* x, const std::string& param,
                  const std::string& name, const std::string& value_name) {
  const int64_t size = x->type.last().constant();
  const ir::NormAttrs attrs{norm.eps, norm.plus_one};
  Value* weight = norm.plus_one ? ctx.weights.tensor(param, name + ".weight", {size})
                                : ctx.weights.norm(param, name + ".weight", size);
  if (norm.kind == ir::NormKind::rms)
    return ctx.step.value(OpKind::rms_norm, {x, weight}, attrs, value_name);
  Value* bias = norm.bias ? ctx.weights.tensor(param + "_bias", name + ".bias", {size}) : nullptr;
  return ctx.step.value(OpKind::layer_norm, {x, weight, bias}, attrs, value_name);
}

Value* build_layer(StepContext& ctx, int64_t index, Value* x, const std::string& result_name) {
  return LayerBuilder(ctx, index).build(x, result_name);
}

}  // namespace shunt
