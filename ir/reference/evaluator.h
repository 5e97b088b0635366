// Executable semantics: what every op of every graph means, on plain loops. Kernels, passes and
// plans are tested against it. Readable before fast, yet small models run in milliseconds and
// storyteller in seconds.
//
// Rounding: products are summed in float64, everything else of an op is float32 (functions of Expr)
// or float64, and the result is rounded once, to float32 and then to its dtype. A fused op has no
// inner rounding. Undefined elements are NaN (integers: -1): unwritten rows of a state, routes with
// id -1 in routed_linear, rows past offsets[E] in grouped_linear and route_sort, tokens past
// seq_starts[S] in attention.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ir/module.h"
#include "ir/reference/tensor.h"

namespace shunt::ir {

struct ReferenceOptions {
  int64_t pages = 16;  // of each paged state; page ids in block_tables are below it
  /// Reads one checkpoint tensor, of exactly this dtype and shape. Needed if @load has a
  /// `checkpoint` op.
  std::function<Tensor(const std::string& name, DType dtype, const std::vector<int64_t>& shape)>
      checkpoint;
  int64_t slots = 16;  // rows of each slot state; ids in state_slots are below it
};

class Evaluator {
 public:
  /// `module` must outlive the evaluator and not change. States start unwritten.
  Evaluator(const Module& module, ReferenceOptions options);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  /// Called after each op, for each result of rank 0; the tensor is dead afterwards.
  using Probe = std::function<void(const Value&, const Tensor&)>;
  /// The same for all ranks.
  using RankProbe = std::function<void(int rank, const Value&, const Tensor&)>;
  using Tensors = std::map<std::string, Tensor>;

  /// Runs @load, which stores parameters; nothing if there is no such graph.
  void load();
  /// Sets one parameter, on all ranks. Throws UserError if the module lacks it or its type differs.
  void set_param(const std::string& name, Tensor value);
  /// Runs a graph, with the same inputs on all ranks; returns rank 0's outputs by name. `dims`
  /// needs every symbol of the graph. Throws UserError for a missing or ill-typed input, an id or
  /// page out of range, and a parameter without value.
  std::map<std::string, Tensor> run(const std::string& graph, const DimEnv& dims,
                                    const std::map<std::string, Tensor>& inputs,
                                    const Probe& probe = {});

  /// The same with inputs, and outputs, by rank. `valid_tokens`, if not empty: how many of T are
  /// not padding on each rank, where dp groups have batches of different sizes.
  std::vector<Tensors> run_ranks(const std::string& graph, const DimEnv& dims,
                                 const std::vector<Tensors>& inputs, const RankProbe& probe = {},
                                 const std::vector<int64_t>& valid_tokens = {});

  int ranks() const { return module_.mesh.size(); }
  /// Of rank 0: a parameter's value, a state's [pages * page_size, row...] or [slots,
  /// row...]; nullptr if it has none.
  const Tensor* param(const std::string& name) const;
  const Tensor* state(const std::string& name) const;

 private:
  struct Rank;
  void run_op(const Graph& graph, const Op& op, const DimEnv& dims,
              const std::vector<int64_t>& valid_tokens, const RankProbe& probe);
  const Module& module_;
  ReferenceOptions options_;
  std::vector<std::unique_ptr<Rank>> ranks_;  // in lockstep
};

}  // namespace shunt::ir
