// eval_ of the ops of many ranks. A collective reads the operands of all ranks of its group, which
// the evaluator keeps in lockstep: nothing waits. Tested by tests/passes/every_mesh_test.cpp and tests/tools/mesh_test.cpp.
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

/// The slot of expert `id` on ep position `ep` if that takes the route of the token, else -1.
int32_t slot_of(int32_t id, int64_t token, int ep, const Tensor& table, const LocalRoutesAttrs& a) {
  if (id < 0) return -1;
  if (id >= a.experts) user_error("expert {} is outside [0, {})", id, a.experts);
  const float u = route_share(static_cast<uint32_t>(token));
  const float* row = table.f.data() + static_cast<int64_t>(id) * a.replicas * 3;
  for (int64_t i = 0; i < a.replicas; ++i, row += 3) {
    if (u >= row[2]) continue;
    return static_cast<int>(row[0]) == ep ? static_cast<int32_t>(row[1]) : -1;
  }
  return -1;
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
    const int64_t token = static_cast<int64_t>(r) / ids.last();
    call.out().i[r] = slot_of(ids.i[r], token, mine, call.in(1), a);
  }
}

// A rank sees what every rank of its group sends, and takes what is sent to itself.
void eval_dispatch(OpCall& call) {
  const auto& a = call.attrs<DispatchAttrs>();
  const auto xs = call.group_operands(a.over, 0), ids = call.group_operands(a.over, 1),
             weights = call.group_operands(a.over, 2);
  const std::vector<int> group = call.mesh->group(a.over, call.rank);
  Tensor &x = call.out(0), &slots = call.out(1), &w = call.out(2), &places = call.out(3);
  std::fill(x.f.begin(), x.f.end(), 0.0f);
  std::fill(slots.i.begin(), slots.i.end(), -1);
  std::fill(w.f.begin(), w.f.end(), 0.0f);
  const int64_t tokens = call.in(0).size(0), k = call.in(1).last();
  const auto sent_to = [&](const Tensor& from, int64_t t, int rank) {
    const int ep = call.mesh->index(MeshAxis::ep, rank);
    std::vector<int32_t> out;
    for (int64_t j = 0; j < k; ++j)
      out.push_back(slot_of(from.i[static_cast<size_t>(t * k + j)], t, ep, call.in(3), a));
    return out;
  };
  const auto any = [](const std::vector<int32_t>& row) {
    return std::any_of(row.begin(), row.end(), [](int32_t slot) { return slot >= 0; });
  };
  for (size_t p = 0; p < group.size(); ++p) {
    int64_t received = 0;
    int32_t sent = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      int32_t& place = places.i[static_cast<size_t>(t) * group.size() + p];
      place = any(sent_to(call.in(1), t, group[p])) ? sent++ : -1;
      const std::vector<int32_t> row = sent_to(*ids[p], t, call.rank);
      if (!any(row)) continue;
      const int64_t at = static_cast<int64_t>(p) * tokens + received++;
      copy_indices(*xs[p], t, x, at, 1, 0);
      copy_indices(*weights[p], t, w, at, 1, 0);
      std::copy(row.begin(), row.end(), slots.i.begin() + at * k);
    }
  }
}

void eval_combine(OpCall& call) {
  const MeshAxis over = call.attrs<ReduceAttrs>().over;
  const auto parts = call.group_operands(over);
  const Tensor& places = call.in(1);
  const int64_t tokens = places.size(0), width = call.out().last();
  const int64_t mine = call.mesh->index(over, call.rank) * tokens;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < width; ++c) {
      double sum = 0;
      for (size_t p = 0; p < parts.size(); ++p) {
        const int32_t place = places.i[static_cast<size_t>(t) * parts.size() + p];
        if (place >= 0) sum += parts[p]->f[static_cast<size_t>((mine + place) * width + c)];
      }
      call.out().f[static_cast<size_t>(t * width + c)] = static_cast<float>(sum);
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
