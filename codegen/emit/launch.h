// Building a launch: the C++ parameter list of a kernel and its plan arguments are added in pairs,
// so that the two cannot disagree.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "codegen/kernel.h"
#include "ir/error.h"
#include "ir/expr.h"

namespace shunt::codegen {

/// "shunt::bf16", "float", "int", ...: what TemplateArg::type calls a dtype.
inline std::string cuda_type(DType dtype) { return TemplateArg::type("", dtype).value; }
inline bool is_cuda(const Context& context) { return context.target.kind == Target::Kind::cuda; }
/// f32, f16 or bf16: what the portable kernels read and write.
inline bool is_plain_float(DType d) {
  return d == DType::f32 || d == DType::f16 || d == DType::bf16;
}
inline bool is_half(DType d) { return d == DType::f16 || d == DType::bf16; }

/// Shared memory that a block may have on every GPU that runs plans for the target: those for sm_80
/// run on 8.6 and 8.9, too, which have less of it.
inline int64_t block_smem(const Target& target) {
  return target.sm >= 90 ? target.smem_per_block
                         : std::min<int64_t>(target.smem_per_block, 99 * 1024);
}

/// True if every operand and result is i32 or a float of a kind that all kernels read.
inline bool has_plain_types(const ir::Op& op) {
  const auto plain = [](const ir::Value* v) {
    return v == nullptr || v->type.dtype == DType::i32 || is_plain_float(v->type.dtype);
  };
  for (const ir::Value* v : op.operands) {
    if (!plain(v)) return false;
  }
  for (const auto& v : op.results) {
    if (!plain(v.get())) return false;
  }
  return true;
}

/// Elements a thread moves at once: the largest power of two up to `most` that divides `columns`.
inline int64_t vector_width(int64_t columns, int64_t most = 8) {
  int64_t n = 1;
  while (n < most && columns % (2 * n) == 0) n *= 2;
  return n;
}
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// A member of Config: "static float apply(float gate, float up) { return ...; }"
inline std::string apply_function(const std::string& text,
                                  const std::vector<std::string>& parameters) {
  const Expr expr = Expr::parse(text);
  std::string list;
  for (const std::string& p : parameters) list += (list.empty() ? "float " : ", float ") + p;
  return fmt::format(
      "  static __device__ __forceinline__ float apply({}) {{\n    return {};\n  }}\n", list,
      expr.to_cuda(expr.variables()));
}

class LaunchBuilder {
 public:
  LaunchBuilder(StepBuilder& steps, std::string name, std::string header, std::string function)
      : steps_(steps) {
    kernel_.name = std::move(name);
    kernel_.header = std::move(header);
    kernel_.function = std::move(function);
  }

  LaunchBuilder& number(std::string name, int64_t value) {
    kernel_.config.push_back(TemplateArg::number(std::move(name), value));
    return *this;
  }
  LaunchBuilder& real(std::string name, double value) {
    kernel_.config.push_back(TemplateArg::real(std::move(name), value));
    return *this;
  }
  LaunchBuilder& boolean(std::string name, bool value) {
    kernel_.config.push_back(TemplateArg::boolean(std::move(name), value));
    return *this;
  }
  LaunchBuilder& type(std::string name, DType dtype) {
    kernel_.config.push_back(TemplateArg::type(std::move(name), dtype));
    return *this;
  }
  LaunchBuilder& type(std::string name, std::string value) {
    kernel_.config.push_back(TemplateArg::type(std::move(name), std::move(value)));
    return *this;
  }
  LaunchBuilder& extra(std::string text) {
    kernel_.extra += text;
    return *this;
  }

  /// A value that is read. An absent one is a null pointer to float.
  LaunchBuilder& in(const std::string& name, const ir::Value* value) {
    const std::string element = value == nullptr ? "float" : cuda_type(value->type.dtype);
    return parameter("const " + element + "* " + name, steps_.arg(value));
  }
  /// A value, or a state, that is written.
  LaunchBuilder& out(const std::string& name, const ir::Value* value) {
    return parameter(cuda_type(value->type.dtype) + "* " + name, steps_.arg(value));
  }
  LaunchBuilder& i32(const std::string& name, const DimExpr& value) {
    return parameter("int " + name, StepBuilder::i32(value));
  }
  LaunchBuilder& i64(const std::string& name, const DimExpr& value) {
    return parameter("shunt::int64 " + name, StepBuilder::i64(value));
  }
  /// Two parameters: `name`, the size a launch is made for, and `true_name`, where the true value
  /// inside a graph bucket is read; null if the size is a constant.
  LaunchBuilder& size(const std::string& name, const Dim& value) {
    i32(name, value);
    const bool symbol =
        value.terms().size() == 1 && value == Dim::symbol(value.terms().begin()->first);
    return parameter("const int* true_" + name,
                     symbol ? steps_.dim_ptr(value.terms().begin()->first) : Arg{});
  }
  LaunchBuilder& parameter(const std::string& declaration, Arg arg) {
    kernel_.parameters += (kernel_.parameters.empty() ? "" : ", ") + declaration;
    spec_.args.push_back(std::move(arg));
    return *this;
  }

  /// Emits the step. Every kernel waits for its predecessor itself, so all are dependent launches
  /// where the target has them.
  void launch(std::array<DimExpr, 3> grid, int64_t threads, int64_t smem = 0, int min_blocks = 1) {
    kernel_.max_threads = static_cast<int>(threads);
    kernel_.min_blocks = min_blocks;
    spec_.grid = std::move(grid);
    spec_.threads = static_cast<int>(threads);
    spec_.smem = smem;
    spec_.dependent = steps_.context().target.sm >= 90;
    steps_.launch(kernel_, std::move(spec_));
  }
  void launch(const DimExpr& blocks, int64_t threads, int64_t smem = 0, int min_blocks = 1) {
    launch({blocks, DimExpr(1), DimExpr(1)}, threads, smem, min_blocks);
  }

 private:
  StepBuilder& steps_;
  KernelSource kernel_;
  StepBuilder::LaunchSpec spec_;
};

}  // namespace shunt::codegen
