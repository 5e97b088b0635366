// Rows that sum over the GPUs of one node through peer memory: in one trip over the link, or, for
// larger sizes, by slices in two. Entry point peer_sum_kernels(); tested by
// tests/codegen/peer_sum_nvrtc_test.cpp (compiles), tests/codegen/peer_sum_test.cpp (selection,
// protocol) and tests/kernels/peer_sum_gpu_test.cpp (values, on several GPUs).
#include <algorithm>

#include "codegen/emit/families.h"
#include "codegen/emit/peer_lines.h"
#include "ir/collectives.h"
#include "runtime/plan/peer_table.h"

namespace shunt::codegen {

namespace {

using ir::Op;
using ir::OpKind;

constexpr int64_t kThreads = 256;

int ranks_of(const Op& op, const Context& context) {
  return context.module.mesh.size(op.as<ir::ReduceAttrs>().over);
}
int64_t bytes_of(const Op& op, const Context& context) {
  return context.bound(op.result()->type.bytes());
}

bool supports(const Op& op, const Context& context) {
  return is_cuda(context) && exchanges_over_peers(ranks_of(op, context), context.peer_memory) &&
         is_plain_float(op.result()->type.dtype) && bytes_of(op, context) <= kMaxPeerBytes;
}

double seconds(const Op& op, const Context& context) {
  return peer_seconds(static_cast<double>(bytes_of(op, context)), ranks_of(op, context),
                      context.target);
}
double seconds_sliced(const Op& op, const Context& context) {
  return peer_sliced_seconds(static_cast<double>(bytes_of(op, context)), ranks_of(op, context),
                             context.target);
}

struct Landing {
  std::string name;
  int64_t bytes;
};

/// The launch of one of the kernels of peer_sum.cuh. `share`: the lines that blocks split among
/// them, of the `of` shares that a tensor has.
void emit(const Op& op, const std::string& kernel, int64_t share, int64_t of,
          const std::vector<Landing>& landings, StepBuilder& steps) {
  const Type& x = op.operand(0)->type;
  const MeshAxis over = op.as<ir::ReduceAttrs>().over;
  const auto buffer = [&](const std::string& name, int64_t bytes) {
    return steps.peer_buffer(fmt::format("{}.{}.{}", kernel, axis_name(over), name), bytes);
  };
  LaunchBuilder launch(steps, kernel, "peer_sum.cuh", kernel);
  launch.type("X", x.dtype).number("kRanks", ranks_of(op, steps.context()));
  launch.number("kThreads", kThreads);
  launch.in("x", op.operand(0)).out("out", op.result()).i64("count", DimExpr(x.elements()));
  for (const Landing& l : landings)
    launch.parameter("const shunt::PeerTable* " + l.name,
                     steps.peers(over, buffer(l.name, l.bytes)));
  launch.parameter("shunt::uint32* epochs",
                   buffer("epochs", kPeerEpochCounters * static_cast<int64_t>(sizeof(uint32_t))));
  // No tokens, no blocks: such a launch is left out, on all ranks.
  const int64_t passes = std::max<int64_t>(1, ceil_div(share, kThreads * kLineBlocks));
  const int64_t block = kThreads * passes * of * (kLineData / dtype_bytes(x.dtype));
  launch.launch(DimExpr::ceildiv(DimExpr(x.elements()), block), kThreads);
}

void emit_peer(const Op& op, StepBuilder& steps) {
  const int64_t lines = ceil_div(bytes_of(op, steps.context()), kLineData);
  const int64_t ranks = ranks_of(op, steps.context());
  emit(op, "peer_sum", lines, 1, {{"landing", line_buffer_bytes(lines, ranks)}}, steps);
}

void emit_sliced(const Op& op, StepBuilder& steps) {
  const int64_t lines = ceil_div(bytes_of(op, steps.context()), kLineData);
  const int64_t ranks = ranks_of(op, steps.context());
  const int64_t slice = round_up(ceil_div(lines, ranks), 32);
  emit(op, "peer_sum_sliced", slice, ranks,
       {{"parts", line_buffer_bytes(slice, ranks)}, {"sums", line_buffer_bytes(ranks * slice, 1)}},
       steps);
}

}  // namespace

std::vector<KernelImpl> peer_sum_kernels() {
  return {
      {"all_reduce.peer", OpKind::all_reduce, supports, seconds, emit_peer},
      {"all_reduce.peer_sliced", OpKind::all_reduce, supports, seconds_sliced, emit_sliced},
  };
}

}  // namespace shunt::codegen
