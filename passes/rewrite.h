// What the passes share: small questions about values, expressions of linears, and merging of
// parameters.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ir/expr.h"
#include "ir/module.h"

namespace shunt::passes {

/// The graph that the pipeline works on until split_regimes clones it; nullptr if the module has
/// none.
ir::Graph* step_graph(const ir::Module& module);

/// The op that makes `value` if it is of this kind, else nullptr. Takes nullptr.
ir::Op* producer(const ir::Value* value, ir::OpKind kind);
/// True if `value` has exactly one use and nobody outside looks at it, so that it may disappear
/// into its user.
bool is_private(const ir::Graph& graph, const ir::Value* value);
/// True for a pointwise "x0 + x1" of two values of one type, which is also the result's: a residual
/// add.
bool is_residual_add(const ir::Op& op);
/// True for a value that exists before the first op of a graph: a parameter or an input. Also for
/// nullptr (absent).
bool is_leaf(const ir::Value* value);

/// "l0.q", "l0.k", "l0.v" -> "l0.qkv"; "gate_proj", "up_proj" -> "gate_up_proj"; "w1", "w3" ->
/// "w13".
std::string joined_name(std::span<const std::string> names);

/// `expr` with all the named variables replaced at once (a replacement may use the name of
/// another).
Expr substitute_all(const Expr& expr, const std::vector<std::pair<std::string, Expr>>& by);

/// linear, routed_linear or grouped_linear.
bool is_linear(const ir::Op& op);
/// Index of the first extra operand of such an op.
size_t first_extra(const ir::Op& op);
bool has_glu(const ir::Op& op);
/// The attributes of `linear` with another epilogue and result type. Plain `acc` becomes the empty
/// epilogue.
ir::Attrs with_epilogue(const ir::Op& linear, const Expr& epilogue, DType out);

/// The extra operands of a linear under construction, each once, named x0, x1, ... in epilogues.
class Extras {
 public:
  Expr variable(ir::Value* value);
  const std::vector<ir::Value*>& values() const { return values_; }

 private:
  std::vector<ir::Value*> values_;
};

/// What `linear` computes per element: an expression over `acc` (with glu: gate and up) and
/// `extras`.
Expr epilogue_of(const ir::Op& linear, Extras& extras);
/// What `pointwise` computes if its operand `index` is `inner`; its other operands become `extras`.
Expr pointwise_over(const ir::Op& pointwise, size_t index, const Expr& inner, Extras& extras);

/// True if each of `params` is a parameter with one use, stored once by @load, so that they may
/// become one.
bool can_merge(const ir::Module& module, std::span<ir::Value* const> params, int axis);
/// Makes one parameter of several: @load stores their concatenation along `axis`. Slices of one
/// tensor that are neighbours there, in order, are read as one slice, or as the tensor itself. The
/// old parameters stay for the sweep. Requires can_merge.
ir::Value* merge_params(ir::Module& module, std::span<ir::Value* const> params, int axis);

}  // namespace shunt::passes
