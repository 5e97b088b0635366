// Rows of rms_norm, layer_norm and add_norm: one kernel, kernels/norm.cuh. Entry point
// norm_kernels(); tested by tests/codegen/norm_nvrtc_test.cpp (compiles) and tests/kernels
// (values).
#include <algorithm>

#include "codegen/emit/families.h"
#include "codegen/emit/launch.h"

namespace shunt::codegen {

namespace {

struct NormOperands {
  const ir::Value* x;
  const ir::Value* y;
  const ir::Value* weight;
  const ir::Value* bias;
  const ir::Value* sum;
  const ir::Value* out;
};

void emit_norm(const NormOperands& v, bool layer, double eps, bool plus_one, const char* name,
               StepBuilder& steps) {
  const int64_t cols = v.x->type.last().constant();
  const int64_t vec = vector_width(cols);
  const int64_t vectors = cols / vec;
  // A warp a row while a lane holds two vectors at most; then a block, wide enough that rows stay
  // in registers.
  const bool warp = vectors <= 64;
  const int64_t row_threads = warp ? 32 : std::clamp<int64_t>(round_up(vectors, 32), 64, 512);
  const int64_t threads = warp ? 128 : row_threads;
  const Dim rows = v.x->type.rank() == 1 ? Dim(1) : v.x->type.elements().divided_by(cols);
  const DType none = DType::f32;
  LaunchBuilder launch(steps, name, "norm.cuh", "norm");
  launch.type("X", v.x->type.dtype)
      .type("Y", v.y ? v.y->type.dtype : none)
      .type("W", v.weight->type.dtype)
      .type("B", v.bias ? v.bias->type.dtype : none)
      .type("Sum", v.sum ? v.sum->type.dtype : none)
      .type("Out", v.out->type.dtype)
      .number("kCols", cols)
      .number("kVec", vec)
      .number("kThreads", threads)
      .number("kRowThreads", row_threads)
      .boolean("kLayer", layer)
      .boolean("kAdd", v.y != nullptr)
      .boolean("kHasBias", v.bias != nullptr)
      .boolean("kPlusOne", plus_one)
      .real("kEps", eps);
  launch.in("x", v.x).in("y", v.y).in("weight", v.weight).in("bias", v.bias);
  if (v.sum != nullptr) {
    launch.out("sum", v.sum);
  } else {
    launch.parameter("float* sum", Arg{});
  }
  launch.out("out", v.out).i32("rows", rows);
  launch.launch(DimExpr::ceildiv(rows, threads / row_threads), threads);
}

void emit_rms_norm(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::NormAttrs>();
  emit_norm({op.operand(0), nullptr, op.operand(1), nullptr, nullptr, op.result()}, false, a.eps,
            a.plus_one, "rms_norm", steps);
}

void emit_layer_norm(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::NormAttrs>();
  emit_norm({op.operand(0), nullptr, op.operand(1), op.operand(2), nullptr, op.result()}, true,
            a.eps, a.plus_one, "layer_norm", steps);
}

void emit_add_norm(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::AddNormAttrs>();
  emit_norm(
      {op.operand(0), op.operand(1), op.operand(2), op.operand(3), op.result(0), op.result(1)},
      a.kind == ir::NormKind::layer, a.eps, a.plus_one, "add_norm", steps);
}

bool supports(const ir::Op& op, const Context& context) {
  const Type& x = op.operand(0)->type;
  return is_cuda(context) && has_plain_types(op) && x.last().is_constant() &&
         x.last().constant() <= 65536;
}

double seconds(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.7, 0.3);
}

}  // namespace

std::vector<KernelImpl> norm_kernels() {
  using ir::OpKind;
  return {
      {"rms_norm.row", OpKind::rms_norm, supports, seconds, emit_rms_norm},
      {"layer_norm.row", OpKind::layer_norm, supports, seconds, emit_layer_norm},
      {"add_norm.row", OpKind::add_norm, supports, seconds, emit_add_norm},
  };
}

}  // namespace shunt::codegen
