// A layer: norms, residuals, and their order. Entry point: build_layer. Tested by the golden
// modules of tests/frontends/families_test.cpp, and against tests/data/conformance by
// tests/frontends/conformance_test.cpp.
#include "frontends/layers.h"

#include "ir/error.h"

namespace shunt {

using ir::OpKind;
using ir::Value;

ir::Value* build_norm(StepContext& ctx, const Norm& norm, Value* x, const std::string& param,
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

Value* build_linear(StepContext& ctx, Value* x, const std::string& name, const std::string& path,
                    int64_t rows, bool bias, bool columns) {
  Value* weight =
      ctx.weights.tensor(name, path + ".weight", {rows, x->type.last().constant()}, columns);
  const ir::LinearAttrs attrs{"", false, ctx.activation};
  if (!bias) return ctx.step.value(OpKind::linear, {x, weight}, attrs, name);
  Value* b = ctx.weights.tensor(name + "_bias", path + ".bias", {rows});
  Value* product = ctx.step.value(OpKind::linear, {x, weight}, attrs, name + "_matmul");
  return ctx.step.value(OpKind::pointwise, {product, b},
                        ir::PointwiseAttrs{"x0 + x1", ctx.activation}, name);
}

LayerParts::LayerParts(StepContext& context, int64_t index)
    : ctx(context),
      layer(context.arch.layers[static_cast<size_t>(index)]),
      names(context.arch.names),
      prefix(fmt::format("l{}.", index)),
      module(fmt::format("{}{}", names.layer, index)) {}

Value* LayerParts::pointwise(const std::string& expr, std::vector<Value*> operands,
                             const std::string& name) {
  return ctx.step.value(OpKind::pointwise, std::move(operands),
                        ir::PointwiseAttrs{expr, ctx.activation}, name);
}

Value* LayerParts::linear(Value* x, const std::string& name, const std::string& path, int64_t rows,
                          bool bias) {
  return build_linear(ctx, x, prefix + name, tensor(path), rows, bias, names.columns);
}

Value* LayerParts::norm(const Norm& kind, Value* x, const std::string& name,
                        const std::string& path) {
  at(path);
  return build_norm(ctx, kind, x, prefix + name, tensor(path), prefix + name);
}

namespace {

/// One half of a layer: the norm before it and its body.
struct Half {
  const std::optional<Norm>&in, &out, &sum;
  std::string name;  // of the norms' values: "attention", "mlp"
  const std::string &in_path, &out_path, &sum_path;
};

class LayerBuilder {
 public:
  LayerBuilder(StepContext& ctx, int64_t index) : p_(ctx, index) {}

  Value* build(Value* x, const std::string& result_name) {
    const Layer& l = p_.layer;
    const CheckpointNames& n = p_.names;
    const Half attention{l.attention_norm, l.attention_out_norm, l.attention_sum_norm, "attention",
                         n.attention_norm, n.attention_out_norm, n.attention_sum_norm};
    const Half mlp{l.mlp_norm, l.mlp_out_norm, l.mlp_sum_norm, "mlp",
                   n.mlp_norm, n.mlp_out_norm, n.mlp_sum_norm};
    Value* read = before(attention, x);
    Value* mixed = mix(read);
    Value* mid = after(attention, l.residual_of_norm ? read : x, mixed, p_.prefix + "mid");
    if (!l.parallel) {
      read = before(mlp, mid);
    } else if (l.mlp_norm) {
      read = before(mlp, x);
    }
    p_.at(n.mlp);
    Value* added = build_mlp(p_, read);
    return after(mlp, l.residual_of_norm ? read : mid, added, result_name);
  }

 private:
  Value* mix(Value* x) {
    const Layer& l = p_.layer;
    const bool recurrent = !std::holds_alternative<std::monostate>(l.recurrent);
    p_.at(recurrent ? p_.names.recurrent : p_.names.attention);
    if (recurrent) return build_recurrent(p_, x);
    return l.attention.latent ? build_latent_attention(p_, x) : build_attention(p_, x);
  }

  Value* before(const Half& half, Value* x) {
    return half.in ? p_.norm(*half.in, x, half.name + "_norm", half.in_path) : x;
  }

  Value* after(const Half& half, Value* x, Value* y, const std::string& name) {
    if (half.out) y = p_.norm(*half.out, y, half.name + "_out_norm", half.out_path);
    p_.at_layer();
    const double scale = p_.ctx.arch.residual_scale;
    const std::string expr = scale == 1 ? "x0 + x1" : fmt::format("x0 + {} * x1", scale);
    if (!half.sum) return p_.pointwise(expr, {x, y}, name);
    Value* sum = p_.pointwise(expr, {x, y}, p_.prefix + half.name + "_sum");
    p_.at(half.sum_path);
    return build_norm(p_.ctx, *half.sum, sum, p_.prefix + half.name + "_sum_norm",
                      p_.tensor(half.sum_path), name);
  }

  LayerParts p_;
};

}  // namespace

Value* build_layer(StepContext& ctx, int64_t index, Value* x, const std::string& result_name) {
  return LayerBuilder(ctx, index).build(x, result_name);
}

}  // namespace shunt
