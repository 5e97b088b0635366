// Shared parts of the `cpu` rows, and the list of them. Entry point: cpu_kernels().
// Test: tests/runtime/host/emit_test.cpp.
#include "codegen/emit/cpu.h"

#include <algorithm>

#include "codegen/emit/families.h"
#include "ir/error.h"
#include "ir/expr.h"
#include "runtime/plan/host_kernels.h"

namespace shunt::codegen {
namespace {

/// Depth of the stack of runtime/host/host_expr.h (HostExpr::kMaxDepth), which this folder may not
/// include.
constexpr int kMaxExprDepth = 16;

bool is_weight_type(DType d) { return d == DType::f32 || d == DType::f16 || d == DType::bf16; }

bool cpu_value(const ir::Value* v) {
  if (v == nullptr || !is_float(v->type.dtype)) return true;
  return v->is_param() ? is_weight_type(v->type.dtype) : v->type.dtype == DType::f32;
}

}  // namespace

bool cpu_types(const ir::Op& op, const Context& context) {
  return context.target.is_cpu() &&
         std::all_of(op.operands.begin(), op.operands.end(), cpu_value) &&
         std::all_of(op.results.begin(), op.results.end(),
                     [](const auto& r) { return cpu_value(r.get()); });
}

bool cpu_expression(const ir::Op& op, const Context& context, const std::string& text,
                    size_t first_extra) {
  if (!cpu_types(op, context)) return false;
  if (op.operands.size() - first_extra > static_cast<size_t>(kMaxHostOperands)) return false;
  return text.empty() || Expr::parse(text).stack_depth() <= kMaxExprDepth;
}

double cpu_seconds(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false);
}

Dim row_count(const Type& type) {
  Dim rows = 1;
  for (int i = 0; i + 1 < type.rank(); ++i) rows = rows * type.shape[static_cast<size_t>(i)];
  return rows;
}

HostArgs& HostArgs::true_size(const Dim& size) {
  const bool symbol = size.terms().size() == 1 && size == Dim::symbol(size.terms().begin()->first);
  return add(symbol ? builder_.dim_ptr(size.terms().begin()->first) : Arg{});
}

HostArgs& HostArgs::add(Arg arg) {
  args_.push_back(std::move(arg));
  return *this;
}

HostArgs& HostArgs::value(const ir::Value* v) { return add(builder_.arg(v)); }

HostArgs& HostArgs::weight(const ir::Value* v) {
  value(v);
  return integer(static_cast<int64_t>(v == nullptr ? DType::f32 : v->type.dtype));
}

HostArgs& HostArgs::integer(const DimExpr& i) { return add(StepBuilder::i64(i)); }
HostArgs& HostArgs::real(double f) { return add(StepBuilder::f32(f)); }

HostArgs& HostArgs::expr(const std::string& text) {
  return add(text.empty() ? Arg{} : StepBuilder::expr(text));
}

HostArgs& HostArgs::extras(const ir::Op& op, size_t first, const Type& result, bool per_expert) {
  integer(static_cast<int64_t>(op.operands.size() - first));
  for (size_t i = first; i < op.operands.size(); ++i) {
    const Type& type = op.operand(i)->type;
    HostOperandMode mode = HostOperandMode::column;
    if (per_expert) {
      mode = HostOperandMode::per_expert;
    } else if (type.shape == result.shape) {
      mode = HostOperandMode::full;
    } else if (type.rank() == 1 && type.last() == result.last()) {
      mode = HostOperandMode::vector;
    }
    weight(op.operand(i)).integer(static_cast<int64_t>(mode));
  }
  return *this;
}

std::vector<KernelImpl> cpu_kernels() {
  std::vector<KernelImpl> all;
  for (auto family : {cpu_row_kernels, cpu_linear_kernels, cpu_attention_kernels,
                      cpu_recurrent_kernels, cpu_moe_kernels}) {
    const std::vector<KernelImpl> rows = family();
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

}  // namespace shunt::codegen
