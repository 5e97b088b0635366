// What the rows of dispatch and combine share: messages, members of the group, places of tokens.
// Internal to codegen/emit/dispatch*.cpp.
#pragma once

#include <algorithm>
#include <vector>

#include "codegen/emit/launch.h"

namespace shunt::codegen {

inline constexpr int64_t kDispatchThreads = 256;

/// What a message of one token is made of, in bytes: its row, k ids, k weights.
struct Message {
  int64_t payload, row;
  explicit Message(const ir::Op& op) {
    const Type& x = op.operand(0)->type;
    payload = round_up(x.last().constant() * dtype_bytes(x.dtype), 16);
    row = round_up(payload + 8 * op.operand(1)->type.last().constant(), 16);
  }
};

inline int64_t exchange_ranks(const ir::Op& op) {
  return op.kind == ir::OpKind::combine ? op.as<ir::ReduceAttrs>().ranks
                                        : op.as<ir::DispatchAttrs>().ranks;
}

/// Bytes of all messages (of a dispatch) or rows (of a combine) that a rank may get.
inline int64_t landing_bytes(const ir::Op& op, const Context& context) {
  if (op.kind == ir::OpKind::combine) return context.bound(op.operand(0)->type.bytes());
  return context.bound(op.operand(0)->type.shape[0]) * op.as<ir::DispatchAttrs>().ranks *
         Message(op).row;
}

/// Member p of this rank's group along an axis is rank base + p * stride.
struct Members {
  std::vector<int64_t> base;  // by rank
  int64_t stride = 1;
  Members(const Mesh& mesh, MeshAxis over) {
    for (int r = 0; r < mesh.size(); ++r) {
      const std::vector<int> group = mesh.group(over, r);
      base.push_back(group[0]);
      if (group.size() > 1) stride = group[1] - group[0];
    }
  }
};

/// A kernel of dispatch*.cuh over rows of this type.
inline LaunchBuilder dispatch_launch(StepBuilder& steps, const char* header, const char* name,
                                     const Type& rows, int64_t ranks) {
  LaunchBuilder launch(steps, name, header, name);
  const int64_t columns = rows.last().constant();
  launch.type("X", rows.dtype).number("kCols", columns);
  launch.number("kVec", vector_width(columns, 16 / dtype_bytes(rows.dtype)));
  launch.number("kRanks", ranks).number("kThreads", kDispatchThreads);
  return launch;
}

/// Template arguments of a kernel that looks into the table of routes; its `base` is of Members.
inline void add_route_table(LaunchBuilder& launch, const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::DispatchAttrs>();
  const Mesh& mesh = steps.context().module.mesh;
  launch.number("kReplicas", a.replicas).number("kStride", Members(mesh, a.over).stride);
  launch.number("kEtp", mesh.etp).number("kTop", op.operand(1)->type.last().constant());
}

/// What writes messages reads: the op's operands, the places of tokens and how many go to each
/// member.
inline void add_message_inputs(LaunchBuilder& launch, const ir::Op& op, const Arg& counts) {
  const Message message(op);
  launch.number("kPayload", message.payload).number("kRow", message.row);
  launch.in("x", op.operand(0)).in("ids", op.operand(1)).in("w", op.operand(2));
  launch.in("table", op.operand(3)).in("places", op.result(3));
  launch.parameter("const int* counts", counts);
}

/// Blocks of kDispatchThreads that a row's columns take.
inline int64_t row_pieces(const Type& rows) {
  const int64_t columns = rows.last().constant();
  return ceil_div(columns, kDispatchThreads * vector_width(columns, 16 / dtype_bytes(rows.dtype)));
}

/// Emits the kernel that fills the op's `places`, and counts[ranks] of tokens that go to each
/// member.
inline void emit_dispatch_places(const ir::Op& op, const Arg& counts, StepBuilder& steps) {
  const auto& a = op.as<ir::DispatchAttrs>();
  const Dim& tokens = op.operand(0)->type.shape[0];
  const int64_t threads = std::min<int64_t>(1024, round_up(steps.context().bound(tokens), 32));
  LaunchBuilder launch(steps, "dispatch_places", "dispatch.cuh", "dispatch_places");
  add_route_table(launch, op, steps);
  launch.number("kRanks", a.ranks).number("kThreads", threads);
  launch.in("ids", op.operand(1)).in("table", op.operand(3)).out("places", op.result(3));
  launch.parameter("int* counts", counts).size("tokens", tokens);
  launch.parameter("int base", steps.rank_value(Members(steps.context().module.mesh, a.over).base));
  launch.launch(DimExpr(a.ranks), threads);
}

}  // namespace shunt::codegen
