// Rows of dispatch and combine over peer memory (kernels/dispatch_peer.cuh): tokens are written to
// the landing memory of their receivers, only those that go there. Entry point
// dispatch_peer_kernels(); tested by tests/codegen/dispatch_nvrtc_test.cpp (compiles) and, on GPUs,
// by tools/device_check.sh.
#include "codegen/emit/dispatch_peers.h"
#include "codegen/emit/families.h"
#include "ir/collectives.h"

namespace shunt::codegen {

namespace {

using ir::Op;
using ir::OpKind;

constexpr const char* kHeader = "dispatch_peer.cuh";
constexpr int64_t kMailBytes = 16;  // PeerMail

double dispatch_seconds(const Op& op, const Context& context) {
  return roofline_seconds(op, context, false) +
         exchange_seconds(kDispatchKernels, link_bytes(op, context), context.target);
}
double combine_seconds(const Op& op, const Context& context) {
  return roofline_seconds(op, context, false) +
         exchange_seconds(kCombineKernels, link_bytes(op, context), context.target);
}

DimExpr blocks(const Dim& items) {
  return DimExpr::min(DimExpr(items), DimExpr(kPeerEpochCounters));
}

void emit_dispatch(const Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::DispatchAttrs>();
  const Type& x = op.operand(0)->type;
  const Dim& tokens = x.shape[0];
  const Message message(op);
  const Arg counts = steps.scratch(a.ranks * 4);
  emit_dispatch_places(op, counts, steps);
  const PeerLane lane("dispatch", a.over, landing_bytes(op, steps.context()), kMailBytes * a.ranks,
                      steps);

  LaunchBuilder push = dispatch_launch(steps, kHeader, "dispatch_push", x, a.ranks);
  add_route_table(push, op, steps);
  add_message_inputs(push, op, counts);
  lane.add_to(push, false);
  push.i32("tokens", tokens);
  push.parameter("int base", steps.rank_value(Members(steps.context().module.mesh, a.over).base));
  push.launch(blocks(tokens), kDispatchThreads);

  LaunchBuilder receive = dispatch_launch(steps, kHeader, "dispatch_receive", x, a.ranks);
  receive.number("kPayload", message.payload).number("kRow", message.row);
  receive.number("kTop", op.operand(1)->type.last().constant());
  lane.add_to(receive, true);
  receive.out("x", op.result(0)).out("ids", op.result(1)).out("w", op.result(2));
  receive.parameter("int* received", received_counts(a.over, a.ranks, steps));
  receive.i32("tokens", tokens).launch(blocks(tokens * a.ranks), kDispatchThreads);
}

void emit_combine(const Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::ReduceAttrs>();
  const Type& y = op.operand(0)->type;
  const Dim& tokens = op.result()->type.shape[0];
  const PeerLane lane("combine", a.over, landing_bytes(op, steps.context()), kMailBytes * a.ranks,
                      steps);

  LaunchBuilder push = dispatch_launch(steps, kHeader, "combine_push", y, a.ranks);
  push.in("y", op.operand(0));
  push.parameter("const int* received", received_counts(a.over, a.ranks, steps));
  lane.add_to(push, false);
  push.i32("tokens", tokens).launch(blocks(y.shape[0]), kDispatchThreads);

  LaunchBuilder receive = dispatch_launch(steps, kHeader, "combine_receive", y, a.ranks);
  lane.add_to(receive, true);
  receive.in("places", op.operand(1)).out("out", op.result()).i32("tokens", tokens);
  receive.launch(blocks(tokens * row_pieces(y)), kDispatchThreads);
}

}  // namespace

std::vector<KernelImpl> dispatch_peer_kernels() {
  return {
      {"dispatch.peer", OpKind::dispatch, dispatches_over_peers, dispatch_seconds, emit_dispatch},
      {"combine.peer", OpKind::combine, combines_over_peers, combine_seconds, emit_combine},
  };
}

}  // namespace shunt::codegen
