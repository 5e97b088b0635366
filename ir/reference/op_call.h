// How the eval_ functions see an op: its operands and results as tensors, on one rank. Internal to
// ir/reference.
#pragma once

#include <span>
#include <vector>

#include "ir/module.h"
#include "ir/random.h"
#include "ir/reference/evaluator.h"
#include "ir/reference/tensor.h"

namespace shunt::ir {

/// One op on one rank. The evaluator made `results` with their concrete types; eval_ fills them
/// with unrounded float32.
struct OpCall {
  const Op& op;
  const ReferenceOptions& options;
  int64_t page_size;
  std::vector<Tensor*> operands;  // nullptr: none. States are written by the ops that append
  std::vector<Tensor> results;
  const Mesh* mesh = nullptr;
  int rank = 0;
  int64_t valid_tokens = -1;  // of this rank's T; later ones are padding. -1: all
  std::span<OpCall> ranks;    // this op on every rank, for collectives: they read operands only

  const Tensor& in(size_t i) const { return *operands[i]; }
  const Tensor* find(size_t i) const { return i < operands.size() ? operands[i] : nullptr; }
  Tensor& state(size_t i) { return *operands[i]; }
  Tensor& out(size_t i = 0) { return results[i]; }
  template <class A>
  const A& attrs() const {
    return op.as<A>();
  }
  /// Operand `i` of the ranks of this rank's group, by position.
  std::vector<const Tensor*> group_operands(MeshAxis over, size_t i = 0) const {
    std::vector<const Tensor*> out;
    for (const int r : mesh->group(over, rank))
      out.push_back(ranks[static_cast<size_t>(r)].operands[i]);
    return out;
  }
};

/// One function an op: a missing one is a link error. Each fills the results of one rank.
#define SHUNT_EVAL_DECLARE(name, attrs) void eval_##name(OpCall& call);
SHUNT_OPS(SHUNT_EVAL_DECLARE)
#undef SHUNT_EVAL_DECLARE

}  // namespace shunt::ir
