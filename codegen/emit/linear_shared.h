// What the rows of linear, head_linear, routed_linear and grouped_linear share: one description of
// the product, the epilogue as device text, and the parts of the cost estimates. Internal to
// codegen/emit.
#pragma once

#include <string>
#include <vector>

#include "codegen/emit/launch.h"
#include "ir/expr.h"

namespace shunt::codegen {

/// y[rows, columns] = epilogue(x . w^T), w being [N, K] or a stack of `experts` such matrices.
struct Product {
  const ir::Op& op;
  const ir::Value* x = nullptr;
  const ir::Value* w = nullptr;
  Dim rows{};           // of the result
  int64_t depth = 0;    // K
  int64_t columns = 0;  // N', of the result: N or, with glu, N / 2
  int64_t experts = 1;  // 1 for linear
  int64_t heads = 0;    // of head_linear, each with a matrix and `rows` rows of its own
  bool glu = false;
  Expr epilogue{};         // over acc | gate, up, and x0, x1, ...
  size_t first_extra = 2;  // operand index of x0

  int64_t parts() const { return glu ? 2 : 1; }
  /// N, the rows of one expert's matrix.
  int64_t weight_rows() const { return columns * parts(); }
  DType x_type() const { return x->type.dtype; }
  DType w_type() const { return w->type.dtype; }
  DType out_type() const { return op.result()->type.dtype; }
  /// True if a kernel may read w before its predecessor has ended.
  bool weights_are_ready() const { return w->kind != ir::Value::Kind::result; }
};

/// `op` is linear, head_linear, routed_linear or grouped_linear.
Product describe_product(const ir::Op& op);

/// All that the rows of this family need of the operands' types: floats that device code has, on a
/// cuda target.
bool has_device_types(const Product& product, const Context& context);

/// Config's epilogue(const float* value, int row, int column, x0, x1, ...): the epilogue as device
/// code. A rank 2 extra operand is read at [row, column], a rank 1 one at [column].
std::string epilogue_text(const Product& product);
/// Adds x0, x1, ... to the kernel's parameters, in the order that epilogue_text takes them.
void add_extra_operands(const Product& product, LaunchBuilder& launch);

/// Bytes that must move: every operand and result once, and no more experts than there are rows.
/// `rows_share`: of the rows at their bound, those that there are.
double product_bytes(const Product& product, const Context& context, double rows_share = 1);
/// 2 * rows * N * K, with `rows` given (padded to a kernel's tiles).
double product_flops(const Product& product, double rows);
/// Start and end of a kernel during which the memory is not busy.
inline constexpr double kRampSeconds = 1.5e-6;

}  // namespace shunt::codegen
