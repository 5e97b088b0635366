// Parameters of the module and the @load ops that fill them, from a checkpoint or with dummy
// numbers.
//
// Every request names the tensor and the shape the model needs; a tensor that is missing, has
// another shape or is not bf16, f16 or f32 is a UserError. A parameter has its tensor's element
// type; a quantised one (frontends/quantization.h) is `dequantize` of its payload and scales, bf16.
// A tensor NAME_blocks is asked for with the shape that it is expanded to.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "frontends/frontend.h"
#include "frontends/quantization.h"
#include "ir/module.h"

namespace shunt {

class Checkpoint;
struct TensorInfo;

/// Where tensors come from when the model's names are not those of the checkpoint, or a tensor lies
/// in parts: shards of tensor parallelism, one file an expert.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual bool has(const std::string& name) const = 0;
  /// The tensor `name` as ops of @load, checked to have this shape; throws UserError if it is
  /// missing. A '*' in the name stands for the first index of the shape.
  virtual ir::Value* load(ir::GraphBuilder& builder, const std::string& name,
                          const std::vector<int64_t>& shape) = 0;
  /// Tensors of the checkpoint that no load() used.
  virtual std::vector<UnusedTensor> unused() const = 0;
};

class Weights {
 public:
  using Shape = std::vector<int64_t>;

  /// `checkpoint` nullptr: dummy weights of element type `dtype`, normal with mean 0 and standard
  /// deviation `stddev`. The module has a graph @load, to which ops are appended.
  Weights(ir::Module& module, const Checkpoint* checkpoint, DType dtype, double stddev,
          TensorSource* source = nullptr, const Quantization& quantization = {});

  /// @param [shape] = the tensor as it is; with `columns` the tensor is [.., K, N] for a shape
  /// [.., N, K].
  ir::Value* tensor(const std::string& param, const std::string& name, const Shape& shape,
                    bool columns = false);
  /// The same for the weight of a norm: all ones as dummy.
  ir::Value* norm(const std::string& param, const std::string& name, int64_t size);
  /// @param [count, shape...]: tensors `pattern` with '*' = 0 .. count - 1, one after another.
  ir::Value* stacked(const std::string& param, const std::string& pattern, int64_t count,
                     const Shape& shape);
  /// @param [shape] = what `make` derives in @load from a tensor; `whole` and `columns` as shape
  /// and columns of tensor(). A tensor is read once, however many parameters derive from it.
  using Make = std::function<ir::Value*(ir::GraphBuilder&, ir::Value*)>;
  ir::Value* derived(const std::string& param, const std::string& name, const Shape& whole,
                     const Shape& shape, const Make& make, bool columns = false);
  /// @param f32[n] of known values, or f32[n, 1].
  ir::Value* constant(const std::string& param, const std::vector<double>& values,
                      bool as_column = false);

  /// True if the checkpoint has the tensor; with a '*', that of number 0. False with dummy weights.
  bool has(const std::string& name) const;
  bool has_shape(const std::string& name, const Shape& shape) const;
  bool is_dummy() const { return checkpoint_ == nullptr; }
  /// Says that a tensor is known and needed by nothing (a copy of tied embeddings).
  void ignore(const std::string& name, const char* why) { ignored_.emplace(name, why); }
  /// The same for all tensors whose names begin so.
  void ignore_prefixes(const std::vector<std::string>& prefixes, const char* why);
  /// Checkpoint tensors that no request named. Expected are those of ignore() and buffers that
  /// frameworks save needlessly.
  std::vector<UnusedTensor> unused() const;

 private:
  /// How a tensor is stored.
  struct Stored {
    DType dtype = DType::bf16;  // of the tensor, or of the payload
    std::string scale_name;     // of the tensor of scales; empty: there is none
    DType scale_dtype = DType::f32;
    Shape shape, scale_shape;  // in the file
    int64_t group_rows = 1, group_columns = 1;
  };
  /// The tensor, which must be there with this shape.
  const TensorInfo& require(const std::string& name, const Shape& shape);
  std::string older_name(const std::string& name) const;
  [[noreturn]] void fail(const TensorInfo& info, const std::string& what) const;
  /// Checks that the tensor, and its scales if it is quantised, are there and give this shape.
  Stored check(const std::string& name, const Shape& shape);
  Stored check_fp8(const TensorInfo& info);
  Stored check_mxfp4(const std::string& name, const Shape& shape);
  /// The tensor in @load, checked and, with `columns`, transposed.
  ir::Value* source(const std::string& name, const Shape& shape, bool columns);
  /// The tensor, or with a '*' in its name `stack` of them, as ops of @load.
  ir::Value* load(const std::string& name, int64_t stack, const Stored& stored);
  ir::Value* dummy(const Shape& shape, double mean, double stddev);
  ir::Value* store(const std::string& param, ir::Value* value);
  /// Loc of the next ops: the module that holds the tensor.
  void locate(const std::string& name);

  ir::Module& module_;
  ir::GraphBuilder builder_;
  const Checkpoint* checkpoint_;
  DType dtype_;
  double stddev_;
  TensorSource* tensor_source_;  // nullptr: the checkpoint's own names
  Quantization quantization_;
  int64_t next_seed_ = 1;  // a parameter's own, in order of creation
  std::set<std::string, std::less<>> used_;
  std::map<std::string, const char*> ignored_;                  // to why
  std::map<std::pair<std::string, bool>, ir::Value*> sources_;  // by name and `columns`
};

}  // namespace shunt
