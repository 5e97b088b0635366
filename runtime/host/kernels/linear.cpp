// Host kernels linear, head_linear, routed_linear, grouped_linear and route_sort. Test:
// tests/runtime/host/linear_test.cpp.
#include <cstring>

#include "runtime/host/kernels/matmul.h"

namespace shunt::host {
namespace {

/// Stable sort of routes by expert: offsets[experts + 1], then rows[m]; dropped routes (id < 0)
/// come last.
void sort_routes(const int32_t* ids, int64_t m, int64_t experts, int32_t* offsets, int32_t* rows) {
  std::fill_n(offsets, experts + 1, 0);
  for (int64_t r = 0; r < m; ++r) {
    SHUNT_CHECK(ids[r] < experts, "expert {} of {}", ids[r], experts);
    if (ids[r] >= 0) ++offsets[ids[r] + 1];
  }
  for (int64_t e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
  int32_t dropped = offsets[experts];
  // Each offset serves as the expert's cursor, and ends as the next one's start: shifted back
  // afterwards.
  for (int64_t r = 0; r < m; ++r) {
    rows[ids[r] >= 0 ? offsets[ids[r]]++ : dropped++] = static_cast<int32_t>(r);
  }
  for (int64_t e = experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

/// Results of dropped routes are zero, not what was in memory before.
void clear_rows(const MatmulJob& job, int64_t first) {
  for (int64_t r = first; r < job.rows; ++r) {
    if (job.to(r) < 0) continue;  // a sort that leaves dropped rows out
    std::memset(job.out + job.to(r) * job.columns(), 0,
                static_cast<size_t>(job.columns()) * sizeof(float));
  }
}

/// Reads "N, K, glu, expr|null, out, count, (p, dtype, mode)[count]".
void read_rest(Args& args, MatmulJob& job) {
  job.n = args.integer();
  job.k = args.integer();
  job.glu = args.flag();
  job.epilogue.expr = args.expr();
  job.out = args.pointer<float>();
  job.epilogue.columns = job.columns();
  read_extras(args, job.epilogue);
}

}  // namespace

void linear(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  MatmulJob job;
  job.x = args.floats();
  job.w = read_weight(args);
  job.rows = args.integer();
  read_rest(args, job);
  matmul(job, pool);
}

void head_linear(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  MatmulJob job;
  job.x = args.floats();
  job.w = read_weight(args);
  const int64_t tokens = args.integer();
  job.groups = static_cast<int>(args.integer());
  job.n = args.integer();
  job.k = args.integer();
  job.out = args.pointer<float>();
  args.done();
  job.rows = tokens * job.groups;
  job.divide = 1;
  job.scatter = true;
  job.epilogue.columns = job.n;
  // Head by head; row t * heads + h of x and of the result is token t's.
  auto* offsets = static_cast<int32_t*>(
      pool.scratch(-2, static_cast<size_t>(job.groups + 1 + job.rows) * sizeof(int32_t)));
  int32_t* order = offsets + job.groups + 1;
  for (int h = 0; h <= job.groups; ++h) offsets[h] = static_cast<int32_t>(h * tokens);
  for (int64_t r = 0; r < job.rows; ++r) {
    order[r] = static_cast<int32_t>(r % tokens * job.groups + r / tokens);
  }
  job.offsets = offsets;
  job.order = order;
  matmul(job, pool);
}

void routed_linear(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  MatmulJob job;
  job.x = args.floats();
  job.w = read_weight(args);
  const int32_t* ids = args.ints();  // [rows]
  job.rows = args.integer();
  job.divide = args.integer();
  job.groups = static_cast<int>(args.integer());
  read_rest(args, job);
  job.scatter = true;

  auto* offsets = static_cast<int32_t*>(
      pool.scratch(-2, static_cast<size_t>(job.groups + 1 + job.rows) * sizeof(int32_t)));
  int32_t* order = offsets + job.groups + 1;
  sort_routes(ids, job.rows, job.groups, offsets, order);
  job.offsets = offsets;
  job.order = order;
  clear_rows(job, offsets[job.groups]);
  matmul(job, pool);
}

void route_sort(std::span<const HostSlot> slots, ThreadPool&) {
  Args args(slots);
  const int32_t* ids = args.ints();
  const int64_t m = args.integer();
  const int64_t experts = args.integer();
  auto* offsets = args.pointer<int32_t>();
  auto* rows = args.pointer<int32_t>();
  args.done();
  sort_routes(ids, m, experts, offsets, rows);
}

void grouped_linear(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  MatmulJob job;
  job.x = args.floats();
  job.w = read_weight(args);
  job.offsets = args.ints();
  job.order = args.ints();
  job.rows = args.integer();
  job.divide = args.integer();
  job.scatter = args.flag();
  job.groups = static_cast<int>(args.integer());
  read_rest(args, job);
  clear_rows(job, job.offsets[job.groups]);
  matmul(job, pool);
}

}  // namespace shunt::host
