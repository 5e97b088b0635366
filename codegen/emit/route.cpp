// Rows of route_sort and combine_routes (kernels/route.cuh). Entry point route_kernels(); tested by
// tests/codegen/route_nvrtc_test.cpp (compiles) and tests/kernels (values).
#include <algorithm>

#include "codegen/emit/families.h"
#include "codegen/emit/launch.h"

namespace shunt::codegen {

namespace {

// ---- route_sort ----

constexpr int64_t kOneBlockRoutes = 16384;  // beyond it, three launches are quicker than one block
constexpr int64_t kBlockRoutes = 4096;      // a block, then

int64_t routes_bound(const ir::Op& op, const Context& context) {
  return context.bound(op.operand(0)->type.elements());
}

bool supports_sort(const ir::Op& op, const Context& context) {
  return is_cuda(context) && op.as<ir::RouteSortAttrs>().experts <= 4096;
}
bool supports_one_block(const ir::Op& op, const Context& context) {
  return supports_sort(op, context) && routes_bound(op, context) <= kOneBlockRoutes;
}

double seconds_one_block(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.5 / context.target.sm_count, 0.1);
}
double seconds_blocks(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.3, 0.1) + 2 * context.target.launch_seconds;
}

/// Warps of a block whose counters (one a warp and expert) fit in 32 KiB.
int64_t sort_warps(int64_t experts) {
  int64_t warps = 32;
  while (warps > 1 && warps * experts > 8192) warps /= 2;
  return warps;
}

LaunchBuilder sort_launch(const ir::Op& op, StepBuilder& steps, const char* name, int64_t warps) {
  LaunchBuilder launch(steps, name, "route.cuh", name);
  launch.number("kExperts", op.as<ir::RouteSortAttrs>().experts);
  launch.number("kThreads", warps * 32).number("kWarps", warps);
  return launch;
}

void emit_one_block(const ir::Op& op, StepBuilder& steps) {
  const int64_t warps = sort_warps(op.as<ir::RouteSortAttrs>().experts);
  sort_launch(op, steps, "route_sort", warps)
      .in("ids", op.operand(0))
      .out("offsets", op.result(0))
      .out("rows", op.result(1))
      .i32("routes", op.operand(0)->type.elements())
      .launch(DimExpr(1), warps * 32);
}

void emit_blocks(const ir::Op& op, StepBuilder& steps) {
  const int64_t experts = op.as<ir::RouteSortAttrs>().experts;
  const int64_t warps = sort_warps(experts);
  const Dim routes = op.operand(0)->type.elements();
  const DimExpr blocks = DimExpr::ceildiv(routes, kBlockRoutes);
  const Arg counts =
      steps.scratch(ceil_div(routes_bound(op, steps.context()), kBlockRoutes) * experts * 4);
  sort_launch(op, steps, "route_count", warps)
      .in("ids", op.operand(0))
      .parameter("int* counts", counts)
      .i32("routes", routes)
      .launch(blocks, warps * 32);
  sort_launch(op, steps, "route_scan", 32)
      .parameter("int* counts", counts)
      .out("offsets", op.result(0))
      .i32("blocks", blocks)
      .launch(DimExpr(1), 1024);
  sort_launch(op, steps, "route_place", warps)
      .in("ids", op.operand(0))
      .parameter("const int* places", counts)
      .out("rows", op.result(1))
      .i32("routes", routes)
      .launch(blocks, warps * 32);
}

// ---- combine_routes ----

bool supports_combine(const ir::Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op);
}

double seconds_combine(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.8, 0.3);
}

void emit_combine(const ir::Op& op, StepBuilder& steps) {
  const ir::Value* residual = op.operand(3);
  const Type& out = op.result()->type;
  const int64_t cols = out.last().constant();
  const int64_t vec = vector_width(cols);
  const int64_t threads = std::clamp<int64_t>(round_up(cols / vec, 32), 32, 128);
  LaunchBuilder launch(steps, "combine_routes", "route.cuh", "combine_routes");
  launch.type("Y", op.operand(0)->type.dtype)
      .type("Residual", residual ? residual->type.dtype : DType::f32);
  launch.type("Out", out.dtype).number("kTop", op.operand(2)->type.last().constant());
  launch.number("kCols", cols).number("kVec", vec).number("kThreads", threads);
  launch.boolean("kHasResidual", residual != nullptr);
  launch.in("y", op.operand(0))
      .in("w", op.operand(1))
      .in("ids", op.operand(2))
      .in("residual", residual);
  launch.out("out", op.result());
  launch.launch({DimExpr(out.shape[0]), DimExpr(ceil_div(cols, vec * threads)), DimExpr(1)},
                threads);
}

}  // namespace

std::vector<KernelImpl> route_kernels() {
  using ir::OpKind;
  return {
      {"route_sort.block", OpKind::route_sort, supports_one_block, seconds_one_block,
       emit_one_block},
      {"route_sort.blocks", OpKind::route_sort, supports_sort, seconds_blocks, emit_blocks},
      {"combine_routes.row", OpKind::combine_routes, supports_combine, seconds_combine,
       emit_combine},
  };
}

}  // namespace shunt::codegen
