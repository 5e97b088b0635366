// eval_ of the ops of many ranks. A collective reads the operands of all ranks of its group, which
// the evaluator keeps in lockstep: nothing waits. Tested by tests/ir/collective_test.cpp.
#include <algorithm>
#include <cmath>

#include "ir/reference/op_call.h"

namespace shunt::ir {

namespace {

/// Indices [begin, begin + n) of `axis` of `from` to [at, at + n) of that of `to`.
void copy_indices(const Tensor& from, int64_t begin, Tensor& to, int64_t at, int64_t n,
                  int64_t axis) {
  const int64_t inner = inner_size(from.type, axis);
  const int64_t from_width = from.size(static_cast<int>(axis)) * inner;
  const int64_t to_width = to.size(static_cast<int>(axis)) * inner;
  if (n == 0 || from_width == 0) return;
  for (int64_t outer = 0; outer < from.elements() / from_width; ++outer) {
    const int64_t f = outer * from_width + begin * inner, t = outer * to_width + at * inner;
    if (from.f.empty()) {
      std::copy_n(from.i.begin() + f, n * inner, to.i.begin() + t);
    } else {
      std::copy_n(from.f.begin() + f, n * inner, to.f.begin() + t);
    }
  }
}

/// The sum over a group of element i of operand 0.
float sum_over(const std::vector<const Tensor*>& parts, size_t i) {
  double sum = 0;
  for (const Tensor* part : parts) sum += part->f[i];
  return static_cast<float>(sum);
}

}  // namespace

void eval_shard(OpCall& call) {
  const auto& a = call.attrs<ShardAttrs>();
  std::fill(call.out().f.begin(), call.out().f.end(), 0.0f);
  std::fill(call.out().i.begin(), call.out().i.end(), 0);
  const Runs& runs = a.runs[static_cast<size_t>(call.mesh->index(a.over, call.rank))];
  int64_t at = 0;
  for (size_t i = 0; i < runs.size(); i += 2) {
    copy_indices(call.in(0), runs[i], call.out(), at, runs[i + 1] - runs[i], a.axis);
    at += runs[i + 1] - runs[i];
  }
}

void eval_local_routes(OpCall& call) {
  const auto& a = call.attrs<LocalRoutesAttrs>();
  const Tensor& ids = call.in(0);
  const int mine = call.mesh->index(MeshAxis::ep, call.rank);
  for (size_t r = 0; r < ids.i.size(); ++r) {
    call.out().i[r] = -1;
    const int32_t id = ids.i[r];
    if (id < 0) continue;
    if (id >= a.experts) user_error("expert {} is outside [0, {})", id, a.experts);
    const auto token = static_cast<uint32_t>(static_cast<int64_t>(r) / ids.last());
    const float u = route_share(token);
    const float* row = call.in(1).f.data() + static_cast<int64_t>(id) * a.replicas * 3;
    for (int64_t i = 0; i < a.replicas; ++i, row += 3) {
      if (u >= row[2]) continue;
      if (static_cast<int>(row[0]) == mine) call.out().i[r] = static_cast<int32_t>(row[1]);
      break;
    }
  }
}

void eval_all_reduce(OpCall& call) {
  const auto parts = call.group_operands(call.attrs<ReduceAttrs>().over);
  for (size_t i = 0; i < call.out().f.size(); ++i) call.out().f[i] = sum_over(parts, i);
}

void eval_all_gather(OpCall& call) {
  const auto& a = call.attrs<GatherAttrs>();
  const auto parts = call.group_operands(a.over);
  int64_t at = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    const int64_t n = a.sizes.empty() ? parts[p]->size(static_cast<int>(a.axis)) : a.sizes[p];
    copy_indices(*parts[p], 0, call.out(), at, n, a.axis);
    at += n;
  }
}

void eval_reduce_scatter(OpCall& call) {
  const MeshAxis over = call.attrs<ReduceAttrs>().over;
  const auto parts = call.group_operands(over);
  const size_t n = call.out().f.size();
  const size_t first = n * static_cast<size_t>(call.mesh->index(over, call.rank));
  for (size_t i = 0; i < n; ++i) call.out().f[i] = sum_over(parts, first + i);
}

}  // namespace shunt::ir
