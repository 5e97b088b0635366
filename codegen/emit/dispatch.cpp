// Rows of dispatch and combine (kernels/dispatch.cuh): tokens are packed into messages of one size,
// a part of T messages for each rank of the group, and one all_to_all moves them; so the host need
// not know how many there are. Entry point dispatch_kernels(); tested by
// tests/codegen/dispatch_nvrtc_test.cpp (compiles) and every test that runs several ranks.
#include "codegen/emit/cpu.h"
#include "codegen/emit/dispatch_peers.h"
#include "codegen/emit/families.h"
#include "ir/collectives.h"

namespace shunt::codegen {

namespace {

using ir::Op;
using ir::OpKind;

constexpr const char* kHeader = "dispatch.cuh";

/// Not beside peer memory: a combine over it reads the counts that a dispatch over it leaves.
bool supports_alltoall(const Op& op, const Context& context) {
  if (context.target.is_cpu()) return cpu_types(op, context);
  return has_plain_types(op) && !(op.kind == OpKind::dispatch ? dispatches_over_peers(op, context)
                                                              : combines_over_peers(op, context));
}

/// One exchange through the communicator, which moves parts whole, and kernels beside it.
double alltoall_seconds(const Op& op, const Context& context) {
  const int kernels = op.kind == OpKind::dispatch ? 3 : 1;
  return roofline_seconds(op, context, false) + kernels * context.target.launch_seconds +
         comm_seconds(1, static_cast<double>(landing_bytes(op, context)),
                      static_cast<int>(exchange_ranks(op)), context.target);
}

Collective exchange(MeshAxis over, const Arg& from, const Arg& to, const Dim& count, DType dtype) {
  return {Collective::Kind::all_to_all, over, from, to, DimExpr(count), dtype};
}

void emit_dispatch_gpu(const Op& op, StepBuilder& steps, const Arg& sent, const Arg& received) {
  const auto& a = op.as<ir::DispatchAttrs>();
  const Type& x = op.operand(0)->type;
  const Type& ids = op.operand(1)->type;
  const Dim& tokens = x.shape[0];
  const Message message(op);
  const int64_t k = ids.last().constant();
  const Members members(steps.context().module.mesh, a.over);
  const Arg base = steps.rank_value(members.base), counts = steps.scratch(a.ranks * 4);
  emit_dispatch_places(op, counts, steps);

  LaunchBuilder pack = dispatch_launch(steps, kHeader, "dispatch_pack", x, a.ranks);
  add_route_table(pack, op, steps);
  add_message_inputs(pack, op, counts);
  pack.parameter("shunt::uint8* messages", sent).i32("tokens", tokens).parameter("int base", base);
  pack.launch(DimExpr(tokens), kDispatchThreads);

  steps.collective(exchange(a.over, sent, received, tokens * (message.row / 4), DType::i32));

  LaunchBuilder unpack = dispatch_launch(steps, kHeader, "dispatch_unpack", x, a.ranks);
  unpack.number("kPayload", message.payload).number("kRow", message.row).number("kTop", k);
  unpack.parameter("const shunt::uint8* messages", received);
  unpack.out("x", op.result(0)).out("ids", op.result(1)).out("w", op.result(2));
  unpack.launch(DimExpr(tokens * a.ranks), kDispatchThreads);
}

void emit_dispatch_cpu(const Op& op, StepBuilder& steps, const Arg& sent, const Arg& received) {
  const auto& a = op.as<ir::DispatchAttrs>();
  const Type& x = op.operand(0)->type;
  const Dim& tokens = x.shape[0];
  const Message message(op);
  const Mesh& mesh = steps.context().module.mesh;
  const Members members(mesh, a.over);
  const auto n = [](int64_t value) { return StepBuilder::i64(value); };
  const auto arg = [&](size_t i) { return steps.arg(op.operand(i)); };
  const auto out = [&](size_t i) { return steps.arg(op.result(i)); };
  const Arg T = StepBuilder::i64(DimExpr(tokens)), k = n(op.operand(1)->type.last().constant()),
            H = n(x.last().constant());
  steps.host_call("dispatch_pack",
                  {arg(0), arg(1), arg(2), arg(3), T, steps.dim_ptr("T"), k, H, n(a.experts),
                   n(a.replicas), n(a.ranks), steps.rank_value(members.base), n(members.stride),
                   n(mesh.etp), n(message.payload), n(message.row), out(3), sent});
  steps.collective(exchange(a.over, sent, received, tokens * (message.row / 4), DType::i32));
  steps.host_call("dispatch_unpack", {received, StepBuilder::i64(DimExpr(tokens * a.ranks)), k, H,
                                      n(message.payload), n(message.row), out(0), out(1), out(2)});
}

void emit_dispatch(const Op& op, StepBuilder& steps) {
  const int64_t ranks = op.as<ir::DispatchAttrs>().ranks;
  const int64_t bytes =
      steps.context().bound(op.operand(0)->type.shape[0]) * ranks * Message(op).row;
  const Arg sent = steps.scratch(bytes), received = steps.scratch(bytes);
  const bool cpu = steps.context().target.is_cpu();
  (cpu ? emit_dispatch_cpu : emit_dispatch_gpu)(op, steps, sent, received);
}

void emit_combine(const Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::ReduceAttrs>();
  const Type& y = op.operand(0)->type;
  const Type& out = op.result()->type;
  const Arg received = steps.scratch(steps.context().bound(y.bytes()));
  steps.collective(exchange(a.over, steps.arg(op.operand(0)), received, out.elements(), y.dtype));
  if (steps.context().target.is_cpu()) {
    return steps.host_call(
        "combine_places",
        {received, steps.arg(op.operand(1)), StepBuilder::i64(DimExpr(out.shape[0])),
         StepBuilder::i64(a.ranks), StepBuilder::i64(DimExpr(out.last())), steps.arg(op.result())});
  }
  LaunchBuilder launch = dispatch_launch(steps, kHeader, "combine_places", y, a.ranks);
  launch.parameter("const " + cuda_type(y.dtype) + "* received", received);
  launch.in("places", op.operand(1)).out("out", op.result()).i32("tokens", out.shape[0]);
  launch.launch({DimExpr(out.shape[0]), DimExpr(row_pieces(y)), DimExpr(1)}, kDispatchThreads);
}

}  // namespace

std::vector<KernelImpl> dispatch_kernels() {
  return {
      {"dispatch.alltoall", OpKind::dispatch, supports_alltoall, alltoall_seconds, emit_dispatch},
      {"combine.alltoall", OpKind::combine, supports_alltoall, alltoall_seconds, emit_combine},
  };
}

}  // namespace shunt::codegen
