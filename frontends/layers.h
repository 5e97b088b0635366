// The parts of a layer, as ops of the logical graph @step.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "frontends/architecture.h"
#include "frontends/weights.h"
#include "ir/module.h"

namespace shunt {

/// What the layers share while @step is built. All pointers outlive it.
struct StepContext {
  ir::Module& module;
  ir::GraphBuilder& step;
  Weights& weights;
  const Architecture& arch;
  DType activation;
  bool force_routing;
  int64_t max_model_len = 0;
  // Inputs of @step, by role.
  ir::Value* positions = nullptr;                       // i32[T]
  ir::Value* seq_starts = nullptr;                      // i32[S+1]
  ir::Value* kv_lens = nullptr;                         // i32[S]
  ir::Value* block_tables = nullptr;                    // i32[S, B]
  ir::Value* state_slots = nullptr;                     // i32[S]; only if a layer is recurrent
  std::vector<std::pair<Rope, ir::Value*>> ropes = {};  // tables of frequencies made so far
  std::vector<std::pair<QueryTemperature, ir::Value*>> temperatures = {};
  std::vector<std::pair<std::vector<double>, ir::Value*>> alibis = {};
  int64_t moe_layers = 0;  // MoE layers built so far
};

/// norm(x). `name` is the tensor's without ".weight".
ir::Value* build_norm(StepContext& ctx, const Norm& norm, ir::Value* x, const std::string& param,
                      const std::string& name, const std::string& value_name);

/// x . w^T (+ bias), with w [rows, columns of x] at `path`.weight and the bias at `path`.bias.
ir::Value* build_linear(StepContext& ctx, ir::Value* x, const std::string& name,
                        const std::string& path, int64_t rows, bool bias, bool columns);

/// One layer while it is built: its description, names and shorthands.
class LayerParts {
 public:
  LayerParts(StepContext& context, int64_t index);

  /// Sets loc to a part of the layer.
  void at(const std::string& part) { ctx.step.set_loc(module + "." + part); }
  void at_layer() { ctx.step.set_loc(module); }
  /// Path of a tensor of this layer.
  std::string tensor(const std::string& name) const { return module + "." + name; }
  ir::Value* pointwise(const std::string& expr, std::vector<ir::Value*> operands,
                       const std::string& name);
  /// build_linear with a path and a value name relative to the layer.
  ir::Value* linear(ir::Value* x, const std::string& name, const std::string& path, int64_t rows,
                    bool bias);
  ir::Value* norm(const Norm& kind, ir::Value* x, const std::string& name, const std::string& path);

  StepContext& ctx;
  const Layer& layer;
  const CheckpointNames& names;
  std::string prefix;  // of parameters and values: "l3."
  std::string module;  // of checkpoint tensors: "model.layers.3"
};

/// What attention adds to the stream, from its normed input x.
ir::Value* build_attention(LayerParts& parts, ir::Value* x);
/// The same for attention through latent matrices.
ir::Value* build_latent_attention(LayerParts& parts, ir::Value* x);
/// The same for a layer that is recurrent.
ir::Value* build_recurrent(LayerParts& parts, ir::Value* x);
/// What the MLP or the experts add to the stream.
ir::Value* build_mlp(LayerParts& parts, ir::Value* x);
/// x with the rotation of `rope`: x is [T, heads, D].
ir::Value* build_rope(LayerParts& parts, const Rope& rope, ir::Value* x, const std::string& name);

/// Layer `index` on the residual stream x : activation[T, H]; returns the stream after it, named
/// `result_name`.
ir::Value* build_layer(StepContext& ctx, int64_t index, ir::Value* x,
                       const std::string& result_name);

}  // namespace shunt
