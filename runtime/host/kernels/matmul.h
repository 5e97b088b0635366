// The product behind linear, routed_linear and grouped_linear: groups of rows, each with its own
// weight.
#pragma once

#include "runtime/host/kernels/epilogue.h"

namespace shunt::host {

/// Rows are numbered in sorted order: group g has rows [offsets[g], offsets[g+1]). Row r reads
/// input row in(r) and writes result row to(r).
struct MatmulJob {
  const float* x = nullptr;  // [.., k]
  Weight w;                  // [groups, n, k]
  int64_t k = 0;
  int64_t n = 0;  // rows of one weight; with glu: gate rows, then as many up rows
  bool glu = false;
  int groups = 1;
  const int32_t* offsets = nullptr;  // [groups + 1]; nullptr: one group of `rows`
  int64_t rows = 0;
  const int32_t* order =
      nullptr;           // [rows]: the route that a sorted row stands for; nullptr: the row itself
  int64_t divide = 0;    // > 0: in(r) = order[r] / divide; 0: in(r) = r
  bool scatter = false;  // to(r) = order[r]; otherwise r
  Epilogue epilogue;     // its columns are those of the result
  float* out = nullptr;  // [rows, columns]

  int64_t columns() const { return glu ? n / 2 : n; }
  int64_t in(int64_t r) const { return divide > 0 ? order[r] / divide : r; }
  int64_t to(int64_t r) const { return scatter ? order[r] : r; }
  int64_t first(int g) const { return offsets == nullptr ? 0 : offsets[g]; }
  int64_t last(int g) const { return offsets == nullptr ? rows : offsets[g + 1]; }
};

/// Computes all groups. Uses the scratch of the workers and the caller's -1. Sums run in an order
/// that depends on shapes alone.
void matmul(const MatmulJob& job, ThreadPool& pool);

}  // namespace shunt::host
