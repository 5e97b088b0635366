// Rows grouped_linear.mma and grouped_linear.simt: routes sorted by expert, each expert's rows
// times its matrix. Entry point: linear_grouped_kernels. Covered by
// tests/codegen/linear_rows_test.cpp and linear_nvrtc_test.cpp.
#include "codegen/emit/families.h"
#include "codegen/emit/linear_tiles.h"

namespace shunt::codegen {

namespace {

bool grouped_mma_supports(const ir::Op& op, const Context& c) {
  return supports_mma(describe_product(op), c);
}
double grouped_mma_seconds(const ir::Op& op, const Context& c) {
  return choose_mma(describe_product(op), c).seconds;
}
void grouped_mma_emit(const ir::Op& op, StepBuilder& steps) {
  emit_mma(describe_product(op), steps);
}

bool grouped_simt_supports(const ir::Op& op, const Context& c) {
  return supports_simt(describe_product(op), c);
}
double grouped_simt_seconds(const ir::Op& op, const Context& c) {
  return simt_seconds(describe_product(op), c);
}
void grouped_simt_emit(const ir::Op& op, StepBuilder& steps) {
  emit_simt(describe_product(op), steps);
}

}  // namespace

std::vector<KernelImpl> linear_grouped_kernels() {
  return {
      {"grouped_linear.mma", ir::OpKind::grouped_linear, grouped_mma_supports, grouped_mma_seconds,
       grouped_mma_emit},
      {"grouped_linear.simt", ir::OpKind::grouped_linear, grouped_simt_supports,
       grouped_simt_seconds, grouped_simt_emit},
  };
}

}  // namespace shunt::codegen
