// What the rows of dispatch and combine over peer memory share. Internal to
// codegen/emit/dispatch*.cpp.
#pragma once

#include <string>

#include "codegen/emit/dispatch_shared.h"
#include "ir/collectives.h"
#include "runtime/plan/peer_table.h"

namespace shunt::codegen {

/// True if every dispatch of the graph is followed by its own combine before the next one: the
/// counts of what was received are those of the last one, and without lines that is what keeps
/// ranks from writing where a slower one still reads (kernels/dispatch_peer.cuh).
inline bool exchanges_alternate(const ir::Graph& graph) {
  const ir::Op* open = nullptr;
  for (const auto& op : graph.ops) {
    if (op->kind == ir::OpKind::dispatch) {
      if (open != nullptr) return false;
      open = op.get();
    } else if (op->kind == ir::OpKind::combine) {
      if (open == nullptr || op->operand(1)->def != open) return false;
      open = nullptr;
    }
  }
  return open == nullptr;
}

inline bool dispatches_over_peers(const ir::Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op) &&
         exchanges_over_peers(op.as<ir::DispatchAttrs>().ranks, context.peer_memory) &&
         exchanges_alternate(context.graph);
}

inline bool combines_over_peers(const ir::Op& op, const Context& context) {
  const ir::Op* sent = op.operand(1)->def;
  return sent != nullptr && sent->kind == ir::OpKind::dispatch &&
         dispatches_over_peers(*sent, context) && has_plain_types(op);
}

/// What crosses a rank's link if every token goes to every member.
inline double link_bytes(const ir::Op& op, const Context& context) {
  const auto ranks = static_cast<double>(exchange_ranks(op));
  return static_cast<double>(landing_bytes(op, context)) * (ranks - 1) / ranks;
}

/// What one direction has in peer memory, by the name of its roles.
struct PeerLane {
  Arg landing, mail, epochs;
  PeerLane(const std::string& name, MeshAxis over, int64_t landing_bytes, int64_t mail_bytes,
           StepBuilder& steps) {
    const auto role = [&](const char* what) {
      return name + "." + what + "." + std::string(axis_name(over));
    };
    landing = steps.peers(over, steps.peer_buffer(role("landing"), landing_bytes));
    mail = steps.peers(over, steps.peer_buffer(role("mail"), mail_bytes));
    epochs = steps.peer_buffer(role("epochs"), kPeerEpochCounters * 4);
  }
  /// `ends`: the kernel that ends an epoch.
  void add_to(LaunchBuilder& launch, bool ends) const {
    launch.parameter("const shunt::PeerTable* landing", landing);
    launch.parameter("const shunt::PeerTable* mail", mail);
    launch.parameter(ends ? "shunt::uint32* epochs" : "const shunt::uint32* epochs", epochs);
  }
};

/// How many messages of each member a rank got in the last dispatch.
inline Arg received_counts(MeshAxis over, int64_t ranks, StepBuilder& steps) {
  return steps.peer_buffer("dispatch.received." + std::string(axis_name(over)), ranks * 4);
}

}  // namespace shunt::codegen
