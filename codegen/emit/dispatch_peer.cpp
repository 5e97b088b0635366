// Rows of dispatch and combine over peer memory (kernels/dispatch_peer.cuh): tokens are written to
// the landing memory of their receivers, only those that go there. Entry point
// dispatch_peer_kernels(); tested by tests/codegen/dispatch_nvrtc_test.cpp (compiles) and, on GPUs,
// by tools/device_check.sh.
#include <algorithm>
#include <string>

#include "codegen/emit/dispatch_shared.h"
#include "codegen/emit/families.h"
#include "ir/collectives.h"
#include "runtime/plan/peer_table.h"

namespace shunt::codegen {

namespace {

using ir::Op;
using ir::OpKind;

constexpr const char* kHeader = "dispatch_peer.cuh";
constexpr int64_t kMailBytes = 16;  // PeerMail

/// True if every dispatch is followed by its own combine before the next one: what keeps ranks from
/// writing where a slower one still reads (kernels/dispatch_peer.cuh).
bool alternates(const ir::Graph& graph) {
  const Op* open = nullptr;
  for (const auto& op : graph.ops) {
    if (op->kind == OpKind::dispatch) {
      if (open != nullptr) return false;
      open = op.get();
    } else if (op->kind == OpKind::combine) {
      if (open == nullptr || op->operand(1)->def != open) return false;
      open = nullptr;
    }
  }
  return open == nullptr;
}

bool supports_dispatch(const Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op) &&
         exchanges_over_peers(op.as<ir::DispatchAttrs>().ranks, context.peer_memory) &&
         alternates(context.graph);
}

bool supports_combine(const Op& op, const Context& context) {
  const Op* sent = op.operand(1)->def;
  return sent != nullptr && sent->kind == OpKind::dispatch && supports_dispatch(*sent, context) &&
         has_plain_types(op);
}

double exchange_seconds(const Op& op, const Context& context) {
  return roofline_seconds(op, context, false);
}

/// What one direction needs in peer memory.
struct Lane {
  Arg landing, mail, epochs;
  Lane(const char* name, MeshAxis over, int64_t ranks, int64_t bytes, StepBuilder& steps) {
    const auto role = [&](const char* what) {
      return std::string(name) + "." + what + "." + std::string(axis_name(over));
    };
    landing = steps.peers(over, steps.peer_buffer(role("landing"), bytes));
    mail = steps.peers(over, steps.peer_buffer(role("mail"), ranks * kMailBytes));
    epochs = steps.peer_buffer(role("epochs"), kPeerEpochCounters * 4);
  }
  void add_to(LaunchBuilder& launch, bool ends) const {
    launch.parameter("const shunt::PeerTable* landing", landing);
    launch.parameter("const shunt::PeerTable* mail", mail);
    launch.parameter(ends ? "shunt::uint32* epochs" : "const shunt::uint32* epochs", epochs);
  }
};

/// How many messages of each member a rank got in the last dispatch.
Arg received_counts(MeshAxis over, int64_t ranks, StepBuilder& steps) {
  return steps.peer_buffer("dispatch.received." + std::string(axis_name(over)), ranks * 4);
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
  const Lane lane("dispatch", a.over, a.ranks,
                  steps.context().bound(tokens) * a.ranks * message.row, steps);

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
  const Lane lane("combine", a.over, a.ranks, steps.context().bound(y.bytes()), steps);

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
      {"dispatch.peer", OpKind::dispatch, supports_dispatch, exchange_seconds, emit_dispatch},
      {"combine.peer", OpKind::combine, supports_combine, exchange_seconds, emit_combine},
  };
}

}  // namespace shunt::codegen
