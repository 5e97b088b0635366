// Dense MLPs and mixtures of experts as logical ops. Entry point: build_mlp. Tested as
// frontends/layers.cpp is.
#include "frontends/layers.h"
#include "ir/error.h"

namespace shunt {

using ir::OpKind;
using ir::Value;

namespace {

std::vector<Dim> dims(const std::vector<int64_t>& shape) { return {shape.begin(), shape.end()}; }

Value* build_dense(LayerParts& p, const DenseMlp& mlp, const MlpNames& names,
                   const std::string& name, Value* x) {
  if (!mlp.gated) {
    Value* up = p.linear(x, name + "up", names.up, mlp.width, mlp.bias);
    Value* inner = p.pointwise(mlp.activation + "(x0)", {up}, p.prefix + name + "inner");
    return p.linear(inner, name + "down", names.down, p.ctx.arch.hidden_size, mlp.bias);
  }
  Value *gate = nullptr, *up = nullptr;
  const bool fused = !names.gate_up.empty() &&
                     (names.gate.empty() || p.ctx.weights.has(p.tensor(names.gate_up) + ".weight"));
  if (fused) {
    SHUNT_CHECK(!mlp.bias, "fused gate and up with a bias");
    const int64_t hidden = x->type.last().constant();
    const auto half = [&](const char* part, int64_t begin) {
      const Weights::Make slice = [&](ir::GraphBuilder& load, Value* all) {
        return load.value(OpKind::slice, {all}, ir::SliceAttrs{0, begin, begin + mlp.width});
      };
      Value* weight =
          p.ctx.weights.derived(p.prefix + name + part, p.tensor(names.gate_up) + ".weight",
                                {2 * mlp.width, hidden}, {mlp.width, hidden}, slice);
      return p.ctx.step.value(OpKind::linear, {x, weight},
                              ir::LinearAttrs{"", false, p.ctx.activation}, p.prefix + name + part);
    };
    gate = half("gate", 0);
    up = half("up", mlp.width);
  } else {
    gate = p.linear(x, name + "gate", names.gate, mlp.width, mlp.bias);
    up = p.linear(x, name + "up", names.up, mlp.width, mlp.bias);
  }
  Value* inner = p.pointwise(mlp.activation + "(x0) * x1", {gate, up}, p.prefix + name + "inner");
  return p.linear(inner, name + "down", names.down, p.ctx.arch.hidden_size, mlp.bias);
}

class MoeBuilder {
 public:
  MoeBuilder(LayerParts& parts, const MoeMlp& moe)
      : p_(parts), ctx_(parts.ctx), moe_(moe), names_(choose_names()) {}

  Value* build(Value* x) {
    p_.at(names_.module);
    const ir::Op* choice = route(x);
    Value *weights = choice->result(0), *ids = choice->result(1);
    Value* routed = experts(x, weights, ids);
    if (moe_.residual) return mixed(x, routed);
    if (!moe_.shared) return routed;
    return p_.pointwise("x0 + x1", {routed, shared(x)}, p_.prefix + "moe_sum");
  }

 private:
  /// The layout that the checkpoint has; the first known one if it has none, so that the error
  /// names a usual tensor.
  const MoeNames& choose_names() const {
    SHUNT_CHECK(!p_.names.moe.empty(), "family {} has MoE layers and no names for them",
                ctx_.arch.family);
    for (const MoeNames& names : p_.names.moe) {
      const auto has = [&](const std::string& name) { return ctx_.weights.has(p_.tensor(name)); };
      if (has(names.down) && has(names.router) &&
          (!moe_.selection_bias || has(names.selection_bias)))
        return names;
    }
    return p_.names.moe.front();
  }

  // ---- the router ----

  const ir::Op* route(Value* x) {
    const int64_t number = ctx_.moe_layers++;
    Value* router = ctx_.weights.tensor(p_.prefix + "router", p_.tensor(names_.router),
                                        {moe_.experts, ctx_.arch.hidden_size});
    const std::string name = fmt::format("router_logits.{}", number);
    const ir::LinearAttrs attrs{"", false, DType::f32};
    Value* logits = nullptr;
    if (moe_.router_bias) {
      Value* bias = ctx_.weights.tensor(p_.prefix + "router_bias", p_.tensor(names_.router_bias),
                                        {moe_.experts});
      Value* product =
          ctx_.step.value(OpKind::linear, {x, router}, attrs, p_.prefix + "router_matmul");
      logits = ctx_.step.value(OpKind::pointwise, {product, bias},
                               ir::PointwiseAttrs{"x0 + x1", DType::f32}, name);
    } else {
      logits = ctx_.step.value(OpKind::linear, {x, router}, attrs, name);
    }
    Value* forced = nullptr;
    if (ctx_.force_routing) {
      forced = ctx_.step.input(fmt::format("forced.{}", number),
                               {DType::i32, {x->type.shape[0], moe_.gate.k}});
    }
    return ctx_.step.op(OpKind::topk_gate, {logits, selection_bias(), forced}, moe_.gate,
                        {p_.prefix + "weights", p_.prefix + "ids"});
  }

  Value* selection_bias() {
    if (!moe_.selection_bias) return nullptr;
    const std::string path = p_.tensor(names_.selection_bias);
    const std::string param = p_.prefix + "selection_bias";
    // ERNIE stores it as a matrix of one row.
    if (!ctx_.weights.has_shape(path, {1, moe_.experts}))
      return ctx_.weights.tensor(param, path, {moe_.experts});
    return ctx_.weights.derived(
        param, path, {1, moe_.experts}, {moe_.experts}, [&](ir::GraphBuilder& load, Value* all) {
          return load.value(OpKind::reshape, {all}, ir::ReshapeAttrs{{moe_.experts}});
        });
  }

  // ---- the experts ----

  struct ExpertWeights {
    Value *gate, *up, *down;  // [E, I, H], [E, I, H], [E, H, I]
    Value *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;  // [E, I], [E, I], [E, H]
  };

  ExpertWeights expert_weights() {
    const int64_t e = moe_.experts, i = moe_.width, h = ctx_.arch.hidden_size;
    const std::string p = p_.prefix + "experts.";
    Weights& w = ctx_.weights;
    ExpertWeights out{};
    if (!moe_.gated) {
      out.up = w.stacked(p + "up", p_.tensor(names_.up), e, {i, h});
      out.down = w.stacked(p + "down", p_.tensor(names_.down), e, {h, i});
      if (moe_.expert_bias) {
        out.up_bias = w.stacked(p + "up_bias", p_.tensor(names_.up_bias), e, {i});
        out.down_bias = w.stacked(p + "down_bias", p_.tensor(names_.down_bias), e, {h});
      }
      return out;
    }
    if (names_.layout == MoeNames::Layout::flat) {
      const auto split = [&](const char* name, const std::string& path, bool transposed) {
        const Weights::Make make = [&](ir::GraphBuilder& load, Value* all) {
          Value* split = load.value(OpKind::reshape, {all}, ir::ReshapeAttrs{{e, i, h}});
          return transposed ? load.value(OpKind::transpose, {split}) : split;
        };
        const Weights::Shape shape = transposed ? Weights::Shape{e, h, i} : Weights::Shape{e, i, h};
        return w.derived(p + name, p_.tensor(path), {e * i, h}, shape, make);
      };
      out = {split("gate", names_.gate, false), split("up", names_.up, false),
             split("down", names_.down, true)};
    } else if (names_.gate.empty()) {
      const bool columns = names_.layout == MoeNames::Layout::columns ||
                           names_.layout == MoeNames::Layout::interleaved;
      out = {half(p + "gate", 0), half(p + "up", 1),
             w.tensor(p + "down", p_.tensor(names_.down), {e, h, i}, columns)};
    } else {
      out.gate = w.stacked(p + "gate", p_.tensor(names_.gate), e, {i, h});
      out.up = w.stacked(p + "up", p_.tensor(names_.up), e, {i, h});
      out.down = w.stacked(p + "down", p_.tensor(names_.down), e, {h, i});
    }
    if (moe_.expert_bias) {
      out.gate_bias = half_bias(p + "gate_bias", 0);
      out.up_bias = half_bias(p + "up_bias", 1);
      out.down_bias = w.tensor(p + "down_bias", p_.tensor(names_.down_bias), {e, h});
    }
    return out;
  }

  /// Gate (0) or up (1) of the tensor that holds both.
  Value* half(const std::string& param, int64_t which) {
    const int64_t e = moe_.experts, i = moe_.width, h = ctx_.arch.hidden_size;
    const std::string path = p_.tensor(names_.gate_up);
    if (names_.layout == MoeNames::Layout::interleaved_rows) {
      return ctx_.weights.derived(param, path, {e, 2 * i, h}, {e, i, h},
                                  [&](ir::GraphBuilder& load, Value* all) {
                                    return take_every_second(load, all, {e, i, h}, 1, which);
                                  });
    }
    if (names_.layout != MoeNames::Layout::interleaved) {
      return ctx_.weights.derived(
          param, path, {e, 2 * i, h}, {e, i, h},
          [&](ir::GraphBuilder& load, Value* all) {
            return load.value(OpKind::slice, {all}, ir::SliceAttrs{1, which * i, (which + 1) * i});
          },
          names_.layout == MoeNames::Layout::columns);
    }
    return ctx_.weights.derived(
        param, path, {e, h, 2 * i}, {e, i, h}, [&](ir::GraphBuilder& load, Value* all) {
          Value* every_second = take_every_second(load, all, {e, h, i}, 2, which);
          return load.value(OpKind::transpose, {every_second});
        });
  }

  Value* half_bias(const std::string& param, int64_t which) {
    const int64_t e = moe_.experts, i = moe_.width;
    return ctx_.weights.derived(
        param, p_.tensor(names_.gate_up_bias), {e, 2 * i}, {e, i},
        [&](ir::GraphBuilder& load, Value* all) {
          if (names_.layout == MoeNames::Layout::interleaved ||
              names_.layout == MoeNames::Layout::interleaved_rows)
            return take_every_second(load, all, {e, i}, 1, which);
          return load.value(OpKind::slice, {all}, ir::SliceAttrs{1, which * i, (which + 1) * i});
        });
  }

  /// Indices `which`, which + 2, ... of an axis; `shape` is the result's.
  static Value* take_every_second(ir::GraphBuilder& load, Value* all, std::vector<int64_t> shape,
                                  int64_t axis, int64_t which) {
    const std::vector<Dim> result = dims(shape);
    shape.insert(shape.begin() + axis + 1, 2);
    Value* pairs = load.value(OpKind::reshape, {all}, ir::ReshapeAttrs{dims(shape)});
    Value* mine = load.value(OpKind::slice, {pairs}, ir::SliceAttrs{axis + 1, which, which + 1});
    return load.value(OpKind::reshape, {mine}, ir::ReshapeAttrs{result});
  }

  Value* routed_linear(Value* x, Value* weight, Value* ids, Value* bias, const std::string& name) {
    std::vector<Value*> operands = {x, weight, ids};
    if (bias != nullptr) operands.push_back(bias);
    const ir::LinearAttrs attrs{bias != nullptr ? "acc + x0" : "", false, ctx_.activation};
    return ctx_.step.value(OpKind::routed_linear, operands, attrs, p_.prefix + name);
  }

  Value* experts(Value* x, Value* weights, Value* ids) {
    const ExpertWeights w = expert_weights();
    if (moe_.weight_on_input) {
      x = weighted_rows(x, weights);
      weights = ones(weights);
    }
    Value* y = nullptr;
    if (moe_.gated) {
      Value* gate = routed_linear(x, w.gate, ids, w.gate_bias, "gate");
      Value* up = routed_linear(x, w.up, ids, w.up_bias, "up");
      const std::string inner = moe_.inner.empty() ? moe_.activation + "(x0) * x1" : moe_.inner;
      y = p_.pointwise(inner, {gate, up}, p_.prefix + "inner");
    } else {
      Value* up = routed_linear(x, w.up, ids, w.up_bias, "up");
      y = p_.pointwise(moe_.activation + "(x0)", {up}, p_.prefix + "inner");
    }
    y = routed_linear(y, w.down, ids, w.down_bias, "down");
    return ctx_.step.value(OpKind::combine_routes, {y, weights, ids, nullptr}, {},
                           p_.prefix + "moe");
  }

  /// A row a route: its token's row times its weight.
  Value* weighted_rows(Value* x, Value* weights) {
    const int64_t k = moe_.gate.k;
    const Dim tokens = x->type.shape[0];
    if (k > 1) {
      const std::vector<Value*> copies(static_cast<size_t>(k), x);
      x = ctx_.step.value(OpKind::concat, copies, ir::AxisAttrs{1}, p_.prefix + "copies");
      x = ctx_.step.value(OpKind::reshape, {x},
                          ir::ReshapeAttrs{{tokens * k, ctx_.arch.hidden_size}},
                          p_.prefix + "route_rows");
      weights = ctx_.step.value(OpKind::reshape, {weights}, ir::ReshapeAttrs{{tokens * k, 1}},
                                p_.prefix + "route_weights");
    }
    return p_.pointwise("x0 * x1", {x, weights}, p_.prefix + "weighted");
  }

  /// Weights that were applied already count as 1. A weight is finite, so 0 * x0 is 0.
  Value* ones(Value* weights) {
    return ctx_.step.value(OpKind::pointwise, {weights},
                           ir::PointwiseAttrs{"1 + 0 * x0", DType::f32}, p_.prefix + "ones");
  }

  /// The experts and a dense MLP, weighted per token by a softmax over two.
  Value* mixed(Value* x, Value* routed) {
    Value* dense = build_dense(p_, *moe_.residual, p_.names.residual, "residual_", x);
    Value* first = coefficient(x, 0);
    Value* second = coefficient(x, 1);
    return p_.pointwise("x0 * sigmoid(x2 - x3) + x1 * sigmoid(x3 - x2)",
                        {routed, dense, first, second}, p_.prefix + "moe_mix");
  }

  /// Logit `which` of the two, f32[T, 1].
  Value* coefficient(Value* x, int64_t which) {
    const int64_t hidden = ctx_.arch.hidden_size;
    const std::string path = p_.tensor(p_.names.coefficient);
    const std::string name = fmt::format("{}coefficient_{}", p_.prefix, which);
    const Weights::Make slice = [&](ir::GraphBuilder& load, Value* all) {
      return load.value(OpKind::slice, {all}, ir::SliceAttrs{0, which, which + 1});
    };
    Value* weight = ctx_.weights.derived(name, path + ".weight", {2, hidden}, {1, hidden}, slice);
    Value* bias = ctx_.weights.derived(name + "_bias", path + ".bias", {2}, {1}, slice);
    Value* product = ctx_.step.value(OpKind::linear, {x, weight},
                                     ir::LinearAttrs{"", false, DType::f32}, name + "_matmul");
    return ctx_.step.value(OpKind::pointwise, {product, bias},
                           ir::PointwiseAttrs{"x0 + x1", DType::f32}, name);
  }

  Value* shared(Value* x) {
    Value* y = build_dense(p_, *moe_.shared, p_.names.shared, "shared_", x);
    if (!moe_.shared_gate) return y;
    Value* weight = ctx_.weights.tensor(p_.prefix + "shared_router",
                                        p_.tensor(p_.names.shared_gate) + ".weight",
                                        {1, ctx_.arch.hidden_size});
    Value* logit =
        ctx_.step.value(OpKind::linear, {x, weight}, ir::LinearAttrs{"", false, DType::f32},
                        p_.prefix + "shared_logit");
    return p_.pointwise("sigmoid(x1) * x0", {y, logit}, p_.prefix + "shared_gated");
  }

  LayerParts& p_;
  StepContext& ctx_;
  const MoeMlp& moe_;
  const MoeNames& names_;
};

}  // namespace

Value* build_mlp(LayerParts& parts, Value* x) {
  if (const auto* moe = std::get_if<MoeMlp>(&parts.layer.mlp))
    return MoeBuilder(parts, *moe).build(x);
  return build_dense(parts, std::get<DenseMlp>(parts.layer.mlp), parts.names.dense, "", x);
}

}  // namespace shunt
