// Rows linear.cublaslt, and .mma and .simt of linear and head_linear. Entry point: linear_kernels.
// Covered by tests/codegen/linear_rows_test.cpp and linear_nvrtc_test.cpp.
#include <algorithm>
#include <optional>

#include "codegen/emit/families.h"
#include "codegen/emit/linear_shared.h"
#include "codegen/emit/linear_tiles.h"

namespace shunt::codegen {

namespace {

/// How an epilogue maps to what cuBLASLt adds to a product.
struct Addends {
  const ir::Value* c = nullptr;     // [rows, columns]
  const ir::Value* bias = nullptr;  // [columns]
};

/// nullopt unless the epilogue is `acc` plus at most one matrix and one vector of the result's
/// type.
std::optional<Addends> addends_of(const Product& p) {
  if (p.glu) return std::nullopt;
  const size_t extras = p.op.operands.size() - p.first_extra;
  bool acc = false;
  size_t additions = 0;
  for (const Expr::Node& node : p.epilogue.nodes()) {
    if (node.code == Expr::Code::add) {
      ++additions;
    } else if (node.code != Expr::Code::variable) {
      return std::nullopt;
    }
  }
  for (const std::string& variable : p.epilogue.variables()) acc = acc || variable == "acc";
  // A sum in which every variable stands once.
  if (!acc || additions != extras || p.epilogue.variables().size() != extras + 1)
    return std::nullopt;
  Addends found;
  for (size_t i = p.first_extra; i < p.op.operands.size(); ++i) {
    const ir::Value* value = p.op.operand(i);
    const ir::Value*& place = value->type.rank() == 2 ? found.c : found.bias;
    if (place != nullptr || value->type.dtype != p.out_type()) return std::nullopt;
    place = value;
  }
  return found;
}

bool supports_cublaslt(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  if (!has_device_types(p, context) || p.x_type() != p.w_type()) return false;
  if (p.out_type() != p.x_type() && p.out_type() != DType::f32) return false;
  // Rows of 16 bytes, without which cuBLASLt has few algorithms or none.
  const int64_t x_unit = 16 / dtype_bytes(p.x_type()), out_unit = 16 / dtype_bytes(p.out_type());
  if (p.depth % x_unit != 0 || p.columns % out_unit != 0) return false;
  return context.bound(p.rows) >= 1 && addends_of(p).has_value();
}

double seconds_cublaslt(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const Target& target = context.target;
  // Its own start and end, and often a second kernel that adds the parts of K.
  constexpr double kCallSeconds = 3e-6;
  const double rate =
      p.x_type() == DType::f32 ? target.vector_flops_per_s * 0.6 : target.matmul_flops_per_s * 0.8;
  const double rows = static_cast<double>(round_up(context.bound(p.rows), 64));
  return target.launch_seconds + kCallSeconds +
         std::max(product_bytes(p, context) / (target.memory_bytes_per_s * 0.7),
                  product_flops(p, rows) / rate);
}

void emit_cublaslt(const ir::Op& op, StepBuilder& steps) {
  const Product p = describe_product(op);
  const Addends addends = addends_of(p).value();
  // Room for splitting K eight ways, up to what cuBLASLt recommends on Hopper.
  constexpr int64_t kMaxWorkspace = int64_t{32} << 20;
  const int64_t result_bytes = steps.context().bound(p.rows) * p.columns * 4;
  Matmul m;
  m.x = steps.arg(p.x);
  m.w = steps.arg(p.w);
  m.c = steps.arg(addends.c);
  m.bias = steps.arg(addends.bias);
  m.d = steps.arg(op.result());
  m.x_type = p.x_type();
  m.w_type = p.w_type();
  m.d_type = p.out_type();
  m.m = p.rows;
  m.n = p.columns;
  m.k = p.depth;
  m.workspace_bytes = std::min(kMaxWorkspace, round_up(8 * result_bytes, 256));
  m.workspace = steps.scratch(m.workspace_bytes);
  steps.matmul(std::move(m));
}

// The same functions for linear and head_linear.

bool linear_mma_supports(const ir::Op& op, const Context& c) {
  return supports_mma(describe_product(op), c);
}
double linear_mma_seconds(const ir::Op& op, const Context& c) {
  return choose_mma(describe_product(op), c).seconds;
}
void linear_mma_emit(const ir::Op& op, StepBuilder& steps) {
  emit_mma(describe_product(op), steps);
}

bool linear_simt_supports(const ir::Op& op, const Context& c) {
  return supports_simt(describe_product(op), c);
}
double linear_simt_seconds(const ir::Op& op, const Context& c) {
  return simt_seconds(describe_product(op), c);
}
void linear_simt_emit(const ir::Op& op, StepBuilder& steps) {
  emit_simt(describe_product(op), steps);
}

}  // namespace

std::vector<KernelImpl> linear_kernels() {
  return {
      {"linear.cublaslt", ir::OpKind::linear, supports_cublaslt, seconds_cublaslt, emit_cublaslt},
      {"linear.mma", ir::OpKind::linear, linear_mma_supports, linear_mma_seconds, linear_mma_emit},
      {"linear.simt", ir::OpKind::linear, linear_simt_supports, linear_simt_seconds,
       linear_simt_emit},
      {"head_linear.mma", ir::OpKind::head_linear, linear_mma_supports, linear_mma_seconds,
       linear_mma_emit},
      {"head_linear.simt", ir::OpKind::head_linear, linear_simt_supports, linear_simt_seconds,
       linear_simt_emit},
  };
}

}  // namespace shunt::codegen
