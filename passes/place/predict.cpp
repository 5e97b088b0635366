// The step-time prediction behind the layout chooser. Tested by
// tests/passes/place/predict_test.cpp; measured beside predicted figures are in
// docs/performance.md.
#include "passes/place/predict.h"

#include <algorithm>
#include <cmath>

#include "ir/collectives.h"
#include "ir/error.h"
#include "ir/expert_load.h"

namespace shunt::passes {

using ir::Op;
using ir::OpKind;

namespace {

const ir::Graph& decode_graph(const ir::Module& module, int64_t sequences) {
  const ir::Graph* best = nullptr;
  for (const auto& graph : module.graphs) {
    if (!graph->name.starts_with("step.decode")) continue;
    const int64_t most = module.dim(*graph, "T").max;
    if (most < sequences) continue;
    if (best == nullptr || most < module.dim(*best, "T").max) best = graph.get();
  }
  if (best == nullptr)
    user_error("a dp group's {} sequences are more than it decodes at once: raise --max-num-seqs",
               sequences);
  return *best;
}

/// Of the target's bandwidth, what experts are read with between the ends of their kernels
/// (bench/expert_bench.cpp).
constexpr double kExpertRate = 0.93;
constexpr int64_t kSeveralTokens = 4;  // from so many on a kernel is no quick one for one token
constexpr int64_t kManyRows = 16;      // fitted: from so many on a kernel over rows costs its most

MeshAxis group_of(const Op& collective) {
  if (const auto* a = std::get_if<ir::GatherAttrs>(&collective.attrs)) return a->over;
  if (const auto* a = std::get_if<ir::DispatchAttrs>(&collective.attrs)) return a->over;
  return collective.as<ir::ReduceAttrs>().over;
}

class Predictor {
 public:
  Predictor(const ir::Module& module, const Target& target, const Workload& workload,
            bool peer_memory)
      : module_(module),
        target_(target),
        batch_(std::max<int64_t>(1, workload.batch)),
        context_(workload.context),
        peer_memory_(peer_memory) {
    sequences_ = module.mesh.group_batch(batch_);
    // Kernels are chosen for all rows there are, padding too; expert_bytes() leaves padding out.
    for_experts_ = share_of(sequences_ * module.mesh.dp, kSeveralTokens);
    for_group_ = share_of(sequences_, kSeveralTokens);
    for (const DimDecl& d : module.dims) at_[d.name] = sequences_;
  }

  StepPrediction run() {
    out_.other = target_.step_seconds;
    for (const auto& op : decode_graph(module_, sequences_).ops) add(*op);
    return out_;
  }

 private:
  /// 0 for one, 1 for `many` and more.
  static double share_of(int64_t n, int64_t many) {
    return static_cast<double>(std::min(n, many) - 1) / static_cast<double>(many - 1);
  }
  /// Half of what a kernel costs beyond its bytes is there whatever it does; the other half is the
  /// ramp-up and tail of a stream, which a short one for one token (`several` = 0) does not get to,
  /// as kernels for few rows ask for their weights before their predecessor has ended.
  double kernel(double bytes, double flops, double rate, double several) const {
    const double work = std::max(bytes / target_.memory_bytes_per_s, flops / rate);
    const double half = target_.kernel_seconds / 2;
    return half + std::min(half, work + several * half) + work;
  }
  /// Of a kernel that works on rows of activations: up to 16 of them fill ever more of the GPU.
  double row_kernel(double bytes, double flops) const {
    return target_.launch_seconds +
           share_of(sequences_, kManyRows) * (target_.kernel_seconds - target_.launch_seconds) +
           std::max(bytes / target_.memory_bytes_per_s, flops / target_.vector_flops_per_s);
  }

  void add(const Op& op) {
    if (op.kind == OpKind::reshape) return;
    if (is_collective(op.kind)) {
      const bool exchange = op.kind == OpKind::dispatch || op.kind == OpKind::combine;
      if (exchange && exchanges_over_peers(module_.mesh.size(group_of(op)), peer_memory_))
        return add_exchange(op);
      const bool larger = op.kind == OpKind::all_gather || op.kind == OpKind::dispatch;
      const Type& x = larger ? op.result()->type : op.operand(0)->type;
      out_.communication +=
          collective_seconds(op.kind, static_cast<double>(x.bytes().evaluate(at_)),
                             module_.mesh.size(group_of(op)), target_, peer_memory_);
      return;
    }
    const ir::Cost cost = op.info().cost(op);
    double bytes = static_cast<double>(cost.bytes.evaluate(at_));
    const double flops = static_cast<double>(cost.flops.evaluate(at_));
    if (op.kind == OpKind::routed_linear || op.kind == OpKind::grouped_linear) {
      bytes = expert_bytes(op);
      out_.experts += kernel(bytes / kExpertRate, flops / module_.mesh.ep,
                             target_.matmul_flops_per_s, for_experts_);
    } else if (op.kind == OpKind::attention) {
      double row = 0;
      for (const size_t i : {4, 5}) {
        if (op.operand(i) != nullptr)
          row += static_cast<double>(op.operand(i)->type.bytes().constant());
      }
      // Measured with bench/attention_bench.cpp: as a stream of several tokens, even for one.
      out_.attention += kernel(static_cast<double>(sequences_ * context_) * row, 0, 1, 1);
    } else if (op.kind == OpKind::linear || op.kind == OpKind::norm_gate) {
      out_.dense += kernel(bytes, flops, target_.matmul_flops_per_s, for_group_);
    } else if (op.kind == OpKind::local_routes) {
      out_.other += target_.launch_seconds;  // a few ids, no rows of activations
    } else {
      out_.other += row_kernel(bytes, flops);
    }
  }

  /// Over peer memory only rows that are wanted cross the link.
  void add_exchange(const Op& op) {
    const bool is_dispatch = op.kind == OpKind::dispatch;
    const Op& dispatch = is_dispatch ? op : *op.operand(1)->def;
    const auto ranks = static_cast<double>(dispatch.as<ir::DispatchAttrs>().ranks);
    const double choices = static_cast<double>(dispatch.operand(1)->type.last().constant());
    const double goes = 1 - std::pow(1 - 1.0 / module_.mesh.ep, choices);
    const double all = static_cast<double>(dispatch.result(0)->type.bytes().evaluate(at_));
    const double link = all * (ranks - 1) / ranks * goes;
    const Type& row = dispatch.operand(0)->type;
    double seconds =
        exchange_seconds(is_dispatch ? kDispatchKernels : kCombineKernels, link, target_);
    if (exchanges_by_lines(all, row.last().constant() * dtype_bytes(row.dtype)))
      seconds = std::min(seconds, exchange_lines_seconds(link, target_));
    out_.communication += seconds;
  }

  /// Weights of the experts that this step takes on the fullest rank.
  double expert_bytes(const Op& op) const {
    const Type& w = op.operand(1)->type;
    const ir::ExpertLoad load = ir::expert_load(op);
    const ir::Value* ids = ir::route_ids(op);
    SHUNT_CHECK(ids != nullptr, "the routes of {} are not made by a route_sort", op.loc);
    // Where dp groups meet there are rows for as many sequences as the fullest of them has.
    const int64_t tokens = std::min(ids->type.shape[0].evaluate(at_), batch_);
    const double distinct =
        distinct_experts(load.experts, load.choices, tokens, load.local, module_.mesh.ep);
    return static_cast<double>(w.bytes().constant()) / static_cast<double>(load.local) * distinct;
  }

  const ir::Module& module_;
  const Target& target_;
  int64_t batch_, context_, sequences_ = 1;
  bool peer_memory_;
  double for_experts_ = 0, for_group_ = 0;  // share_of the tokens that experts, and other ops, see
  DimEnv at_;
  StepPrediction out_;
};

}  // namespace

double collective_seconds(OpKind kind, double bytes, int ranks, const Target& target,
                          bool peer_memory) {
  if (kind == OpKind::all_reduce) return all_reduce_seconds(bytes, ranks, peer_memory, target);
  return comm_seconds(1, bytes, ranks, target);
}

double distinct_experts(int64_t total, int64_t k, int64_t tokens, int64_t local, int ranks) {
  const double mean = ir::ExpertLoad{total, local, k}.chosen(tokens);
  if (ranks <= 1) return mean;
  // The largest of n about normal numbers lies this many deviations above their mean.
  const double above = std::sqrt(2 * std::log(static_cast<double>(ranks))) * 0.62;
  const double all = static_cast<double>(local);
  const double deviation = std::sqrt(mean * (1 - mean / all));
  return std::min({all, static_cast<double>(tokens * k), mean + above * deviation});
}

StepPrediction predict_decode(const ir::Module& module, const Target& target,
                              const Workload& workload, bool peer_memory) {
  return Predictor(module, target, workload, peer_memory).run();
}

}  // namespace shunt::passes
