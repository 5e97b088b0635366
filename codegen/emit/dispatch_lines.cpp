// Rows of dispatch and combine over peer memory for few tokens, in lines that carry their epoch
// (kernels/dispatch_lines.cuh): one kernel each. Entry point dispatch_lines_kernels(); tested by
// tests/codegen/dispatch_nvrtc_test.cpp (compiles) and, on GPUs, by tools/device_check.sh.
#include <algorithm>

#include "codegen/emit/dispatch_peers.h"
#include "codegen/emit/families.h"
#include "codegen/emit/peer_lines.h"

namespace shunt::codegen {

namespace {

using ir::Op;
using ir::OpKind;

constexpr const char* kHeader = "dispatch_lines.cuh";
constexpr int64_t kMaxTokens = 128;  // of a rank: with 256 the row with flags is quicker (measured)

bool fits_lines(const Op& op, const Context& context) {
  const Type& rows = op.operand(0)->type;
  const int64_t row_bytes = rows.last().constant() * dtype_bytes(rows.dtype);
  return exchanges_by_lines(static_cast<double>(landing_bytes(op, context)), row_bytes);
}

bool supports_dispatch(const Op& op, const Context& context) {
  return dispatches_over_peers(op, context) && fits_lines(op, context) &&
         context.bound(op.operand(0)->type.shape[0]) <= kMaxTokens;
}

bool supports_combine(const Op& op, const Context& context) {
  return combines_over_peers(op, context) && fits_lines(op, context);
}

double seconds(const Op& op, const Context& context) {
  return roofline_seconds(op, context, false) +
         exchange_lines_seconds(link_bytes(op, context), context.target);
}

int64_t lines_of_row(const Type& rows) {
  return rows.last().constant() * dtype_bytes(rows.dtype) / kLineData;
}

PeerLane lane_of(const Op& op, MeshAxis over, int64_t tokens, int64_t lines, int64_t ranks,
                 StepBuilder& steps) {
  const std::string name = std::string(op.info().name) + "_lines";
  return PeerLane(name, over, line_buffer_bytes(tokens * lines, ranks), line_buffer_bytes(1, ranks),
                  steps);
}

DimExpr blocks(const Dim& items) { return DimExpr::min(DimExpr(items), DimExpr(kLineBlocks)); }

void emit_dispatch(const Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::DispatchAttrs>();
  const Type& x = op.operand(0)->type;
  const Dim& tokens = x.shape[0];
  const int64_t most = steps.context().bound(tokens), row = lines_of_row(x);
  const int64_t k = op.operand(1)->type.last().constant();
  LaunchBuilder launch = dispatch_launch(steps, kHeader, "dispatch_lines", x, a.ranks);
  add_route_table(launch, op, steps);
  launch.number("kRowLines", row).number("kMaxTokens", round_up(most, 32));
  launch.in("x", op.operand(0)).in("ids", op.operand(1)).in("w", op.operand(2));
  launch.in("table", op.operand(3));
  lane_of(op, a.over, most, row + k, a.ranks, steps).add_to(launch, true);
  launch.out("x_out", op.result(0)).out("ids_out", op.result(1)).out("w_out", op.result(2));
  launch.out("places", op.result(3));
  launch.parameter("int* received", received_counts(a.over, a.ranks, steps));
  launch.size("tokens", tokens);
  launch.parameter("int base", steps.rank_value(Members(steps.context().module.mesh, a.over).base));
  launch.launch(blocks(tokens * a.ranks), kDispatchThreads);
}

void emit_combine(const Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::ReduceAttrs>();
  const Type& y = op.operand(0)->type;
  const Dim& tokens = op.result()->type.shape[0];
  const int64_t row = lines_of_row(y);
  LaunchBuilder launch = dispatch_launch(steps, kHeader, "combine_lines", y, a.ranks);
  launch.number("kRowLines", row);
  launch.in("y", op.operand(0));
  launch.parameter("const int* received", received_counts(a.over, a.ranks, steps));
  launch.in("places", op.operand(1));
  lane_of(op, a.over, steps.context().bound(tokens), row, a.ranks, steps).add_to(launch, true);
  launch.out("out", op.result()).i32("tokens", tokens);
  launch.launch(blocks(tokens * std::max(a.ranks - 1, ceil_div(row, kDispatchThreads))),
                kDispatchThreads);
}

}  // namespace

std::vector<KernelImpl> dispatch_lines_kernels() {
  return {
      {"dispatch.peer_lines", OpKind::dispatch, supports_dispatch, seconds, emit_dispatch},
      {"combine.peer_lines", OpKind::combine, supports_combine, seconds, emit_combine},
  };
}

}  // namespace shunt::codegen
