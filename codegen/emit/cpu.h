// What the rows of the `cpu` target share: each calls one host kernel, whose argument list stands
// in runtime/plan/host_kernels.h.
#pragma once

#include <vector>

#include "codegen/kernel.h"

namespace shunt::codegen {

/// Supports on the cpu target: every floating-point operand and result that is no parameter, and
/// every state, is float32; parameters are f32, f16 or bf16.
bool cpu_types(const ir::Op& op, const Context& context);
/// Also: the expression is one that host kernels evaluate, with at most kMaxHostOperands extra
/// operands.
bool cpu_expression(const ir::Op& op, const Context& context, const std::string& text,
                    size_t first_extra);
double cpu_seconds(const ir::Op& op, const Context& context);

/// An argument list in the making.
class HostArgs {
 public:
  explicit HostArgs(StepBuilder& builder) : builder_(builder) {}
  HostArgs& value(const ir::Value* v);
  /// A weight: address and dtype. Absent: null and f32.
  HostArgs& weight(const ir::Value* v);
  HostArgs& integer(const DimExpr& i);
  HostArgs& flag(bool f) { return integer(f ? 1 : 0); }
  HostArgs& real(double f);
  /// An expression, null if it is empty.
  HostArgs& expr(const std::string& text);
  /// Where the true value of a dim lies, below which a padded one's rows count; null if it is a sum
  /// or a number.
  HostArgs& true_size(const Dim& size);
  /// An argument made elsewhere.
  HostArgs& arg(Arg arg) { return add(std::move(arg)); }
  /// "count, (p, dtype, mode)[count]" of the operands from `first` on, against a result of
  /// `result`'s shape.
  HostArgs& extras(const ir::Op& op, size_t first, const Type& result, bool per_expert);
  void call(std::string_view kernel) { builder_.host_call(kernel, std::move(args_)); }

 private:
  HostArgs& add(Arg arg);
  StepBuilder& builder_;
  std::vector<Arg> args_;
};

/// Product of all sizes but the last.
Dim row_count(const Type& type);

std::vector<KernelImpl> cpu_row_kernels();        // emit/cpu_rows.cpp
std::vector<KernelImpl> cpu_linear_kernels();     // emit/cpu_linear.cpp
std::vector<KernelImpl> cpu_attention_kernels();  // emit/cpu_attention.cpp
std::vector<KernelImpl> cpu_recurrent_kernels();  // emit/cpu_recurrent.cpp
std::vector<KernelImpl> cpu_moe_kernels();        // emit/cpu_moe.cpp

}  // namespace shunt::codegen
