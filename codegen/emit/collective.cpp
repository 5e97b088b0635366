// Rows of the ops of many ranks: collectives are steps of the runtime on every target (sums that
// are kernels: peer_sum.cpp); a gather along an inner axis is one along the first, into scratch,
// and copies. Also shard and local_routes in @step. Entry point collective_kernels(); tested by
// tests/kernels (shard, local_routes) and every test that runs several ranks.
#include <algorithm>

#include "codegen/emit/copy.h"
#include "codegen/emit/cpu.h"
#include "codegen/emit/families.h"
#include "codegen/emit/launch.h"
#include "ir/collectives.h"

namespace shunt::codegen {

namespace {

using ir::Op;
using ir::OpKind;

bool supports_collective(const Op& op, const Context& context) {
  return context.target.is_cpu() ? cpu_types(op, context) : has_plain_types(op);
}

double collective_cost(const Op& op, const Context& context) {
  return roofline_seconds(op, context, false);
}

double all_reduce_cost(const Op& op, const Context& context) {
  if (context.target.is_cpu()) return collective_cost(op, context);
  return comm_seconds(2, static_cast<double>(context.bound(op.result()->type.bytes())),
                      context.module.mesh.size(op.as<ir::ReduceAttrs>().over), context.target);
}

Collective make(Collective::Kind kind, const Op& op, MeshAxis over, const Dim& count,
                StepBuilder& steps) {
  return {kind,
          over,
          steps.arg(op.operand(0)),
          steps.arg(op.result()),
          DimExpr(count),
          op.operand(0)->type.dtype};
}

void emit_all_reduce(const Op& op, StepBuilder& steps) {
  steps.collective(make(Collective::Kind::all_reduce, op, op.as<ir::ReduceAttrs>().over,
                        op.result()->type.elements(), steps));
}

void emit_reduce_scatter(const Op& op, StepBuilder& steps) {
  steps.collective(make(Collective::Kind::reduce_scatter, op, op.as<ir::ReduceAttrs>().over,
                        op.result()->type.elements(), steps));
}

/// A copy on either target.
void emit_copy(const Arg& from, const Arg& to, int64_t element, const RowCopy& c,
               StepBuilder& steps) {
  if (!steps.context().target.is_cpu()) {
    return emit_copy_rows("gather_copy", from, to, element, c, steps);
  }
  const auto bytes = [&](const Dim& d) { return StepBuilder::i64(DimExpr(d * element)); };
  steps.host_call("copy_2d",
                  {from, bytes(c.from_offset), bytes(c.from_pitch), to, bytes(c.to_offset),
                   bytes(c.to_pitch), StepBuilder::i64(DimExpr(c.rows)), bytes(c.row)});
}

void emit_all_gather(const Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::GatherAttrs>();
  const Type& x = op.operand(0)->type;
  const Type& out = op.result()->type;
  Collective c = make(Collective::Kind::all_gather, op, a.over, x.elements(), steps);
  const auto axis = static_cast<size_t>(a.axis);
  const Dim outer = outer_elements(x, a.axis), inner = inner_elements(x, a.axis);
  const bool equal = a.sizes.empty() || std::all_of(a.sizes.begin(), a.sizes.end(), [&](int64_t n) {
                       return Dim(n) == x.shape[axis];
                     });
  if (outer == Dim(1) && equal) return steps.collective(std::move(c));
  const int64_t element = dtype_bytes(x.dtype);
  const Arg to = c.to;
  c.to = steps.scratch(steps.context().bound(x.bytes()) * a.ranks);
  const Arg parts = c.to;
  steps.collective(std::move(c));
  const Dim width = x.shape[axis] * inner;
  Dim at = 0;
  for (int64_t p = 0; p < a.ranks; ++p) {
    const Dim row = a.sizes.empty() ? width : inner * a.sizes[static_cast<size_t>(p)];
    if (row == Dim(0)) continue;
    emit_copy(parts, to, element,
              {outer, row, width, out.shape[axis] * inner, x.elements() * p, at}, steps);
    at = at + row;
  }
}

// ---- shard: in @step, one run a rank ----

bool supports_shard(const Op& op, const Context& context) {
  const auto& a = op.as<ir::ShardAttrs>();
  return is_plain_float(op.result()->type.dtype) &&
         std::all_of(a.runs.begin(), a.runs.end(), [](auto& runs) { return runs.size() <= 2; }) &&
         (!context.target.is_cpu() || cpu_types(op, context));
}

/// Begin and length of the run of each rank of the world.
struct ShardRuns {
  std::vector<int64_t> begins, counts;
};
ShardRuns runs_by_rank(const ir::ShardAttrs& a, const Mesh& mesh) {
  ShardRuns out;
  for (int r = 0; r < mesh.size(); ++r) {
    const ir::Runs& runs = a.runs[static_cast<size_t>(mesh.index(a.over, r))];
    out.begins.push_back(runs.empty() ? 0 : runs[0]);
    out.counts.push_back(runs.empty() ? 0 : runs[1] - runs[0]);
  }
  return out;
}

void emit_shard(const Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::ShardAttrs>();
  const Type& x = op.operand(0)->type;
  const Dim outer = outer_elements(x, a.axis), inner = inner_elements(x, a.axis);
  const Dim width = x.shape[static_cast<size_t>(a.axis)];
  const ShardRuns runs = runs_by_rank(a, steps.context().module.mesh);
  const Arg begin = steps.rank_value(runs.begins), count = steps.rank_value(runs.counts);
  if (steps.context().target.is_cpu()) {
    steps.host_call(
        "shard", {steps.arg(op.operand(0)), StepBuilder::i64(DimExpr(outer)),
                  StepBuilder::i64(DimExpr(width)), StepBuilder::i64(DimExpr(inner)), begin, count,
                  StepBuilder::i64(DimExpr(a.size)), steps.arg(op.result())});
    return;
  }
  constexpr int64_t kThreads = 256;
  LaunchBuilder launch(steps, "shard", "rows.cuh", "shard");
  launch.type("X", x.dtype).number("kThreads", kThreads).number("kSize", a.size);
  launch.in("x", op.operand(0)).out("out", op.result()).i64("outer", outer).i64("width", width);
  launch.i64("inner", inner).parameter("int begin", begin).parameter("int count", count);
  launch.launch(DimExpr::ceildiv(DimExpr(op.result()->type.elements()), kThreads), kThreads);
}

// ---- local_routes ----

bool supports_local_routes(const Op&, const Context&) { return true; }

void emit_local_routes(const Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::LocalRoutesAttrs>();
  const Type& ids = op.operand(0)->type;
  const Mesh& mesh = steps.context().module.mesh;
  std::vector<int64_t> positions;
  for (int r = 0; r < mesh.size(); ++r) positions.push_back(mesh.index(MeshAxis::ep, r));
  const Arg mine = steps.rank_value(positions);
  const int64_t k = ids.last().constant();
  if (steps.context().target.is_cpu()) {
    steps.host_call("local_routes", {steps.arg(op.operand(0)), steps.arg(op.operand(1)),
                                     StepBuilder::i64(DimExpr(ids.shape[0])), StepBuilder::i64(k),
                                     StepBuilder::i64(a.experts), StepBuilder::i64(a.replicas),
                                     mine, steps.arg(op.result())});
    return;
  }
  constexpr int64_t kThreads = 128;
  LaunchBuilder launch(steps, "local_routes", "route.cuh", "local_routes");
  launch.number("kTop", k).number("kReplicas", a.replicas).number("kThreads", kThreads);
  launch.in("ids", op.operand(0)).in("table", op.operand(1)).out("out", op.result());
  launch.i32("routes", ids.elements()).parameter("int mine", mine);
  launch.launch(DimExpr::ceildiv(DimExpr(ids.elements()), kThreads), kThreads);
}

}  // namespace

Arg embedding_begin(const ir::EmbeddingAttrs& a, StepBuilder& steps) {
  if (a.begins.empty()) return StepBuilder::i32(0);
  const Mesh& mesh = steps.context().module.mesh;
  std::vector<int64_t> begins;
  for (int r = 0; r < mesh.size(); ++r)
    begins.push_back(a.begins[static_cast<size_t>(mesh.index(a.over, r))]);
  return steps.rank_value(begins);
}

std::vector<KernelImpl> collective_kernels() {
  return {
      {"all_reduce.comm", OpKind::all_reduce, supports_collective, all_reduce_cost,
       emit_all_reduce},
      {"all_gather.comm", OpKind::all_gather, supports_collective, collective_cost,
       emit_all_gather},
      {"reduce_scatter.comm", OpKind::reduce_scatter, supports_collective, collective_cost,
       emit_reduce_scatter},
      {"shard.copy", OpKind::shard, supports_shard, collective_cost, emit_shard},
      {"local_routes.table", OpKind::local_routes, supports_local_routes, collective_cost,
       emit_local_routes},
  };
}

}  // namespace shunt::codegen
