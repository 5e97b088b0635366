// Kernels that move rows: embedding and gather_rows (a row an index), copy_rows (concat and slice).
#pragma once

#include "common/common.cuh"

namespace shunt {

/// out[i, :] = from[index[i] + kOffset - begin, :], converted; zeros where the index is out of range
/// (padded rows of a graph bucket may hold anything; a rank may have a part of the rows only). blockIdx.x is i. Config: From, Out, kCols,
/// kVec, kThreads, kOffset.
template <class C>
__device__ __forceinline__ void take_rows(const int* index, const typename C::From* from,
                                          typename C::Out* out, int from_rows,
                                          int begin) {
  constexpr int kVectors = C::kCols / C::kVec;
  wait_for_predecessor();
  launch_dependents();
  const int64 row = static_cast<int64>(index[blockIdx.x]) + C::kOffset - begin;
  const bool valid = row >= 0 && row < from_rows;
  const typename C::From* source = from + (valid ? row : 0) * C::kCols;
  typename C::Out* target = out + static_cast<int64>(blockIdx.x) * C::kCols;
  for (int i = threadIdx.x; i < kVectors; i += C::kThreads) {
    Vec<typename C::Out, C::kVec> result = zero_vec<typename C::Out, C::kVec>();
    if (valid) result = from_float<typename C::Out>(to_float(load<C::kVec>(source + i * C::kVec)));
    store(target + i * C::kVec, result);
  }
}

/// Copies `rows` runs of `row_units` units, `from_pitch` and `to_pitch` units apart.
/// Config: Unit (an unsigned type that divides every size and offset), kThreads.
template <class C>
__device__ __forceinline__ void copy_rows(const uint8* from, uint8* to, int64 rows, int64 row_units,
                                          int64 from_pitch, int64 to_pitch, int64 from_offset,
                                          int64 to_offset) {
  using Unit = typename C::Unit;
  wait_for_predecessor();
  launch_dependents();
  const Unit* source = reinterpret_cast<const Unit*>(from) + from_offset;
  Unit* target = reinterpret_cast<Unit*>(to) + to_offset;
  const int64 step = static_cast<int64>(gridDim.x) * C::kThreads;
  for (int64 i = static_cast<int64>(blockIdx.x) * C::kThreads + threadIdx.x; i < rows * row_units;
       i += step) {
    const int64 row = i / row_units;
    const int64 unit = i - row * row_units;
    target[row * to_pitch + unit] = source[row * from_pitch + unit];
  }
}

/// out[o, i, :] = x[o, begin + i, :] for i < count, else zeros: this rank's part of an axis. x is
/// [outer, width, inner], out [outer, kSize, inner]. Config: X, kSize, kThreads.
template <class C>
__device__ __forceinline__ void shard(const typename C::X* x, typename C::X* out, int64 outer,
                                      int64 width, int64 inner, int begin, int count) {
  wait_for_predecessor();
  launch_dependents();
  const int64 e = static_cast<int64>(blockIdx.x) * C::kThreads + threadIdx.x;
  const int64 row = e / inner;
  const int64 o = row / C::kSize, i = row - o * C::kSize;
  if (o >= outer) return;
  const float value = i < count ? to_float(x[(o * width + begin + i) * inner + e - row * inner]) : 0.0f;
  out[e] = from_float<typename C::X>(value);
}

}  // namespace shunt
