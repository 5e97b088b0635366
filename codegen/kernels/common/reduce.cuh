// Reductions over a warp (all 32 lanes take part) or a block.
#pragma once

#include "common/types.cuh"

namespace shunt {

inline constexpr uint32 kFullWarp = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) & 31; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) >> 5; }

/// Sum over groups of kLanes neighbouring lanes; every lane gets its group's sum. The order of
/// additions is fixed.
template <int kLanes = 32>
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}
template <int kLanes = 32>
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    x = ::fmaxf(x, __shfl_xor_sync(kFullWarp, x, step));
  }
  return x;
}

/// Sums kCount (a power of two, at most 32) values over the warp at once, in kCount - 1 + log2(32 /
/// kCount) exchanges: lane l gets the total of values[l / (32 / kCount)]. Groups of 2 * kStep lanes
/// take part.
template <int kCount, int kStep = 16>
__device__ __forceinline__ float warp_sum_each(const float (&values)[kCount]) {
  if constexpr (kCount == 1) {
    return warp_sum<2 * kStep>(values[0]);
  } else {
    // Partners split the values: each keeps one half and hands over the other. A template for each
    // size, so that no index is left to run time (which would put the values in memory).
    const bool upper = (lane_index() & kStep) != 0;
    float half[kCount / 2];
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const float keep = upper ? values[i + kCount / 2] : values[i];
      const float give = upper ? values[i] : values[i + kCount / 2];
      half[i] = keep + __shfl_xor_sync(kFullWarp, give, kStep);
    }
    return warp_sum_each<kCount / 2, kStep / 2>(half);
  }
}

/// Sum over a block of kThreads (a multiple of 32) threads; every thread gets it. `scratch` is
/// shared memory for kThreads / 32 floats; its earlier contents must no longer be needed, and it
/// may be reused after the next barrier.
template <int kThreads>
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  constexpr int kWarps = kThreads / 32;
  x = warp_sum(x);
  if constexpr (kWarps == 1) return x;
  if (lane_index() == 0) scratch[warp_index()] = x;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) total += scratch[i];
  return total;
}
template <int kThreads>
__device__ __forceinline__ float block_max(float x, float* scratch) {
  constexpr int kWarps = kThreads / 32;
  x = warp_max(x);
  if constexpr (kWarps == 1) return x;
  if (lane_index() == 0) scratch[warp_index()] = x;
  __syncthreads();
  float best = scratch[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) best = ::fmaxf(best, scratch[i]);
  return best;
}

}  // namespace shunt
