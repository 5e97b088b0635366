// Layers whose memory is one row a sequence: gated short convolutions and the gated delta rule, as
// logical ops. Entry point: build_recurrent. Tested as frontends/layers.cpp is.
#include <cmath>

#include "frontends/layers.h"
#include "ir/error.h"

namespace shunt {

using ir::OpKind;
using ir::Value;

namespace {

/// What both kinds need: parts of joint projections, and the convolution.
class RecurrentBuilder {
 public:
  explicit RecurrentBuilder(LayerParts& parts) : p_(parts), ctx_(parts.ctx) {
    SHUNT_CHECK(ctx_.arch.causal && ctx_.state_slots != nullptr, "a recurrent layer in an encoder");
  }

 protected:
  std::string path(const char* name) const { return p_.tensor(p_.names.recurrent + "." + name); }

  static ir::ReshapeAttrs shape(const Weights::Shape& s) { return {{s.begin(), s.end()}}; }

  Value* linear(Value* x, Value* weight, const std::string& name, DType out) {
    return ctx_.step.value(OpKind::linear, {x, weight}, ir::LinearAttrs{"", false, out},
                           p_.prefix + name);
  }

  /// conv(x) with the weight [C, 1, kernel] at `tensor`.
  Value* conv(Value* x, const char* tensor, int64_t kernel, bool bias,
              const std::string& epilogue) {
    const int64_t channels = x->type.last().constant();
    Value* weight =
        ctx_.weights.derived(p_.prefix + "conv", path(tensor) + ".weight", {channels, 1, kernel},
                             {channels, kernel}, [&](ir::GraphBuilder& load, Value* all) {
                               return load.value(OpKind::reshape, {all}, shape({channels, kernel}));
                             });
    Value* b =
        bias ? ctx_.weights.tensor(p_.prefix + "conv_bias", path(tensor) + ".bias", {channels})
             : nullptr;
    Value* state = ctx_.module.add_state(p_.prefix + "conv_inputs",
                                         {x->type.dtype, {kernel - 1, channels}}, StateKind::slot);
    return ctx_.step.value(OpKind::causal_conv,
                           {x, weight, b, ctx_.positions, ctx_.seq_starts, ctx_.state_slots, state},
                           ir::CausalConvAttrs{epilogue}, p_.prefix + "conv");
  }

  LayerParts& p_;
  StepContext& ctx_;
};

class ShortConvBuilder : RecurrentBuilder {
 public:
  ShortConvBuilder(LayerParts& parts, const ShortConv& conv)
      : RecurrentBuilder(parts), conv_(conv) {}

  Value* build(Value* x) {
    Value* b = third(x, "conv_b", 0);
    Value* c = third(x, "conv_c", 1);
    Value* in = third(x, "conv_x", 2);
    Value* gated = p_.pointwise("x0 * x1", {b, in}, p_.prefix + "conv_in");
    Value* y = conv(gated, "conv", conv_.kernel, conv_.bias, "");
    y = p_.pointwise("x0 * x1", {c, y}, p_.prefix + "conv_out");
    return p_.linear(y, "out_proj", p_.names.recurrent + ".out_proj", ctx_.arch.hidden_size,
                     conv_.bias);
  }

 private:
  /// One of the three parts of the joint projection.
  Value* third(Value* x, const std::string& name, int64_t which) {
    const int64_t h = ctx_.arch.hidden_size;
    const Weights::Make part = [&](ir::GraphBuilder& load, Value* all) {
      return load.value(OpKind::slice, {all}, ir::SliceAttrs{0, which * h, (which + 1) * h});
    };
    Value* weight = ctx_.weights.derived(p_.prefix + name, path("in_proj") + ".weight", {3 * h, h},
                                         {h, h}, part);
    if (!conv_.bias) return linear(x, weight, name, ctx_.activation);
    Value* bias = ctx_.weights.derived(p_.prefix + name + "_bias", path("in_proj") + ".bias",
                                       {3 * h}, {h}, part);
    Value* product = linear(x, weight, name + "_matmul", ctx_.activation);
    return p_.pointwise("x0 + x1", {product, bias}, p_.prefix + name);
  }

  const ShortConv& conv_;
};

class GatedDeltaNetBuilder : RecurrentBuilder {
 public:
  GatedDeltaNetBuilder(LayerParts& parts, const GatedDeltaNet& net)
      : RecurrentBuilder(parts), n_(net), group_(net.heads / net.key_heads) {}

  Value* build(Value* x) {
    const int64_t values = n_.heads * n_.value_dim;
    // The rule compares keys with what it has stored, and the norm after it magnifies what is left:
    // with bf16 between them the layer's squared error is four times as large, so it is float32.
    Value* qkv = linear(x, qkv_weight(), "qkv_proj", DType::f32);
    Value* z = linear(x, z_weight(), "z_proj", ctx_.activation);
    qkv = conv(qkv, "conv1d", n_.kernel, false, n_.activation + "(acc)");
    Value* state =
        ctx_.module.add_state(p_.prefix + "delta_state",
                              {DType::f32, {n_.heads, n_.key_dim, n_.value_dim}}, StateKind::slot);
    ir::GatedDeltaRuleAttrs attrs;
    attrs.key_heads = n_.key_heads;
    attrs.scale = 1 / std::sqrt(static_cast<double>(n_.key_dim));
    attrs.qk_l2norm = true;
    Value* y = ctx_.step.value(
        OpKind::gated_delta_rule,
        {qkv, decay(x), beta(x), ctx_.positions, ctx_.seq_starts, ctx_.state_slots, state}, attrs,
        p_.prefix + "delta");
    y = p_.norm(n_.norm, y, "delta_norm", p_.names.recurrent + ".norm");
    p_.at(p_.names.recurrent);
    y = ctx_.step.value(OpKind::reshape, {y}, ir::ReshapeAttrs{{x->type.shape[0], values}},
                        p_.prefix + "delta_rows");
    y = p_.pointwise("x0 * silu(x1)", {y, z}, p_.prefix + "delta_gated");
    return p_.linear(y, "out_proj", p_.names.recurrent + ".out_proj", ctx_.arch.hidden_size, false);
  }

 private:
  // A key head's rows of in_proj_qkvz: q, k, then v and z of its value heads; of in_proj_ba: b,
  // then a of its value heads.

  /// Rows [begin, end) of every key head of a joint projection of `rows` rows a head.
  Value* rows_of(ir::GraphBuilder& load, Value* all, int64_t rows, int64_t begin, int64_t end) {
    const int64_t h = ctx_.arch.hidden_size;
    Value* split = load.value(OpKind::reshape, {all}, shape({n_.key_heads, rows, h}));
    Value* mine = load.value(OpKind::slice, {split}, ir::SliceAttrs{1, begin, end});
    return load.value(OpKind::reshape, {mine}, shape({n_.key_heads * (end - begin), h}));
  }

  int64_t qkvz_rows() const { return 2 * n_.key_dim + 2 * group_ * n_.value_dim; }

  Value* qkv_weight() {
    const int64_t h = ctx_.arch.hidden_size, d = n_.key_dim, v = group_ * n_.value_dim;
    return ctx_.weights.derived(
        p_.prefix + "qkv_proj", path("in_proj_qkvz") + ".weight", {n_.key_heads * qkvz_rows(), h},
        {n_.key_heads * (2 * d + v), h}, [&](ir::GraphBuilder& load, Value* all) {
          const int64_t rows = qkvz_rows();
          const std::vector<Value*> parts = {rows_of(load, all, rows, 0, d),
                                             rows_of(load, all, rows, d, 2 * d),
                                             rows_of(load, all, rows, 2 * d, 2 * d + v)};
          return load.value(OpKind::concat, parts, ir::AxisAttrs{0});
        });
  }

  Value* z_weight() {
    const int64_t h = ctx_.arch.hidden_size, rows = qkvz_rows(), v = group_ * n_.value_dim;
    return ctx_.weights.derived(p_.prefix + "z_proj", path("in_proj_qkvz") + ".weight",
                                {n_.key_heads * rows, h}, {n_.key_heads * v, h},
                                [&](ir::GraphBuilder& load, Value* all) {
                                  return rows_of(load, all, rows, rows - v, rows);
                                });
  }

  /// b (0) or a (1) : f32[T, heads].
  Value* b_or_a(Value* x, const std::string& name, int64_t which) {
    const int64_t h = ctx_.arch.hidden_size;
    Value* weight = ctx_.weights.derived(
        p_.prefix + name, path("in_proj_ba") + ".weight", {2 * n_.heads, h}, {n_.heads, h},
        [&](ir::GraphBuilder& load, Value* all) {
          return rows_of(load, all, 2 * group_, which * group_, (which + 1) * group_);
        });
    return linear(x, weight, name, DType::f32);
  }

  Value* scalar(const std::string& expr, std::vector<Value*> operands, const char* name) {
    return ctx_.step.value(OpKind::pointwise, std::move(operands),
                           ir::PointwiseAttrs{expr, DType::f32}, p_.prefix + name);
  }

  Value* beta(Value* x) { return scalar("sigmoid(x0)", {b_or_a(x, "b_proj", 0)}, "beta"); }

  /// The logarithm of what the state is multiplied by.
  Value* decay(Value* x) {
    Value* a = b_or_a(x, "a_proj", 1);
    Value* log = ctx_.weights.tensor(p_.prefix + "a_log", path("A_log"), {n_.heads});
    Value* bias = ctx_.weights.tensor(p_.prefix + "dt_bias", path("dt_bias"), {n_.heads});
    return scalar("-exp(x1) * softplus(x0 + x2)", {a, log, bias}, "decay");
  }

  const GatedDeltaNet& n_;
  int64_t group_;  // value heads of a key head
};

}  // namespace

Value* build_recurrent(LayerParts& parts, Value* x) {
  if (const auto* conv = std::get_if<ShortConv>(&parts.layer.recurrent))
    return ShortConvBuilder(parts, *conv).build(x);
  return GatedDeltaNetBuilder(parts, std::get<GatedDeltaNet>(parts.layer.recurrent)).build(x);
}

}  // namespace shunt
