// Parameters of the module and the @load ops that fill them, from a checkpoint or with dummy
// numbers.
//
// Every request names the tensor and the shape the model needs; a tensor that is missing, has
// another shape or is not bf16, f16 or f32 is a UserError. A parameter has its tensor's element
// type.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ir/module.h"

namespace shunt {

class Checkpoint;

class Weights {
 public:
  using Shape = std::vector<int64_t>;

  /// `checkpoint` nullptr: dummy weights of element type `dtype`, normal with mean 0 and standard
  /// deviation `stddev`. The module has a graph @load, to which ops are appended.
  Weights(ir::Module& module, const Checkpoint* checkpoint, DType dtype, double stddev);

  /// @param = the tensor as it is.
  ir::Value* tensor(const std::string& param, const std::string& name, const Shape& shape);
  /// The same for the weight of a norm: all ones as dummy.
  ir::Value* norm(const std::string& param, const std::string& name, int64_t size);
  /// @param [count, shape...]: tensors `pattern` with '*' = 0 .. count - 1, one after another.
  ir::Value* stacked(const std::string& param, const std::string& pattern, int64_t count,
                     const Shape& shape);
  /// Two parameters [E, N, K]: the first N rows of every matrix of the tensor [E, 2N, K], and the
  /// others.
  std::pair<ir::Value*, ir::Value*> halves(const std::string& first, const std::string& second,
                                           const std::string& name, const Shape& half);
  /// @param f32[n] of known values.
  ir::Value* constant(const std::string& param, const std::vector<double>& values);

  /// True if the checkpoint has the tensor; with a '*', that of number 0. False with dummy weights.
  bool has(const std::string& name) const;
  bool is_dummy() const { return checkpoint_ == nullptr; }
  /// Says that a tensor is known and needed by nothing (a copy of tied embeddings).
  void ignore(const std::string& name) { used_.insert(name); }
  /// Checkpoint tensors that no request named; buffers that frameworks save needlessly are left
  /// out.
  std::vector<std::string> unused() const;

 private:
  /// Checks that the tensor is there with this shape; returns its element type.
  DType check(const std::string& name, const Shape& shape);
  ir::Value* load(const std::string& name, int64_t stack, DType dtype, const Shape& shape);
  ir::Value* dummy(const Shape& shape, double mean, double stddev);
  ir::Value* store(const std::string& param, ir::Value* value);
  /// Loc of the next ops: the module that holds the tensor.
  void locate(const std::string& name);

  ir::Module& module_;
  ir::GraphBuilder builder_;
  const Checkpoint* checkpoint_;
  DType dtype_;
  double stddev_;
  int64_t next_seed_ = 1;  // a parameter's own, in order of creation
  std::set<std::string, std::less<>> used_;
};

}  // namespace shunt
