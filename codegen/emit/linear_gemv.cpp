// Row linear.gemv: few rows of x, weights streamed once (kernels/gemv.cuh). Entry point:
// linear_gemv_kernels. Covered by tests/codegen/linear_rows_test.cpp, linear_nvrtc_test.cpp and, on
// a GPU, by the test that compares every row with the evaluator.
#include <algorithm>

#include "codegen/emit/families.h"
#include "codegen/emit/gemv_config.h"

namespace shunt::codegen {

namespace {

constexpr int64_t kMaxRows = 16;  // beyond, tensor cores win even when the weights dominate

bool supports_linear(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const int64_t rows = context.bound(p.rows);
  if (!has_device_types(p, context) || !p.weights_are_ready() || rows < 1 || rows > kMaxRows)
    return false;
  return choose_gemv(p, rows, 1, context.target).smem <= block_smem(context.target);
}

double seconds_linear(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const int64_t rows = context.bound(p.rows);
  const int64_t block_rows = std::min(rows, kGemvRows);
  // A block for the next rows goes over the weights again: from the cache, with all the arithmetic.
  const double passes = static_cast<double>(ceil_div(rows, block_rows));
  return gemv_seconds(context, product_bytes(p, context), product_flops(p, passes) / 2,
                      static_cast<double>(block_rows), 1);
}

void emit_linear(const ir::Op& op, StepBuilder& steps) {
  const Product p = describe_product(op);
  const Context& context = steps.context();
  const GemvConfig c = choose_gemv(p, context.bound(p.rows), 1, context.target);
  LaunchBuilder launch(steps, "linear_gemv", "gemv.cuh", "gemv");
  add_gemv_config(launch, p, c);
  launch.in("x", p.x).in("w", p.w).out("out", op.result()).i32("rows", p.rows);
  add_extra_operands(p, launch);
  launch.launch(
      {DimExpr(column_blocks(c, 1, context.target)), DimExpr::ceildiv(p.rows, c.rows), DimExpr(1)},
      kGemvWarps * 32, c.smem, kGemvBlocksPerSm);
}

}  // namespace

std::vector<KernelImpl> linear_gemv_kernels() {
  return {
      {"linear.gemv", ir::OpKind::linear, supports_linear, seconds_linear, emit_linear},
  };
}

}  // namespace shunt::codegen
