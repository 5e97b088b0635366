// The parts of a decoder layer, as ops of the logical graph @step.
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
  // Inputs of @step, by role.
  ir::Value* positions = nullptr;                       // i32[T]
  ir::Value* seq_starts = nullptr;                      // i32[S+1]
  ir::Value* kv_lens = nullptr;                         // i32[S]
  ir::Value* block_tables = nullptr;                    // i32[S, B]
  std::vector<std::pair<Rope, ir::Value*>> ropes = {};  // tables of frequencies made so far
  int64_t moe_layers = 0;                               // MoE layers built so far
};

/// norm(x). `name` is the tensor's without ".weight".
ir::Value* build_norm(StepContext& ctx, const Norm& norm, ir::Value* x, const std::string& param,
                      const std::string& name, const std::string& value_name);

/// Layer `index` on the residual stream x : activation[T, H]; returns the stream after it, named
/// `result_name`.
ir::Value* build_layer(StepContext& ctx, int64_t index, ir::Value* x,
                       const std::string& result_name);

}  // namespace shunt
