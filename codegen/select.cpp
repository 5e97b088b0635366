// The kernel table and the choice from it. Tested by tests/codegen/linear_rows_test.cpp.
#include <algorithm>
#include <limits>

#include "codegen/emit/families.h"
#include "codegen/kernel.h"
#include "ir/error.h"

namespace shunt::codegen {

namespace {

const std::vector<KernelImpl>& table() {
  static const std::vector<KernelImpl> rows = all_kernels();
  return rows;
}

}  // namespace

std::vector<KernelImpl> all_kernels() {
  std::vector<KernelImpl> out;
  for (auto* family :
       {linear_gemv_kernels, linear_routed_kernels, linear_kernels, linear_grouped_kernels,
        norm_kernels, tensor_kernels, rope_kernels, attention_kernels, attention_latent_kernels,
        recurrent_kernels, gate_kernels, route_kernels, sample_kernels, collective_kernels,
        peer_sum_kernels, dispatch_kernels, dispatch_peer_kernels, dispatch_lines_kernels,
        cpu_kernels}) {
    std::vector<KernelImpl> rows = family();
    std::move(rows.begin(), rows.end(), std::back_inserter(out));
  }
  return out;
}

const KernelImpl& select(const ir::Op& op, const Context& context, std::string_view only) {
  const KernelImpl* best = nullptr;
  double least = std::numeric_limits<double>::infinity();
  for (const KernelImpl& row : table()) {
    if (row.op != op.kind || !row.supports(op, context)) continue;
    if (row.name == only) return row;
    const double seconds = row.seconds(op, context);
    if (best == nullptr || seconds < least) {
      best = &row;
      least = seconds;
    }
  }
  if (best == nullptr) {
    user_error("no kernel computes `{}` on target {} (at {})", ir::print(op), context.target.name,
               op.loc);
  }
  return *best;
}

double roofline_seconds(const ir::Op& op, const Context& context, bool tensor_cores,
                        double bandwidth_share, double compute_share) {
  const ir::Cost cost = op.info().cost(op);
  const Target& t = context.target;
  const double rate = tensor_cores ? t.matmul_flops_per_s : t.vector_flops_per_s;
  const double move =
      static_cast<double>(context.bound(cost.bytes)) / (t.memory_bytes_per_s * bandwidth_share);
  const double compute = static_cast<double>(context.bound(cost.flops)) / (rate * compute_share);
  return std::max(move, compute) + t.launch_seconds;
}

}  // namespace shunt::codegen
