// Normal numbers from a counter: element i of a parameter depends on (seed, i) alone, so that any
// launch geometry, and the cpu target, give the same numbers (to the accuracy of logf and cosf).
//
//   a  = splitmix64(seed * 0x9E3779B97F4A7C15 + i),  b = splitmix64(a)
//   u1 = ((a >> 40) + 1) * 2^-24        in (0, 1], exact in float32
//   u2 = (b >> 40) * 2^-24              in [0, 1), exact in float32
//   value = mean + stddev * sqrt(-2 ln u1) * cos(2 pi u2), float32, rounded once to the parameter's
//   type
//
// eval_dummy (ir/reference/load.cpp) has the same formula.
#pragma once

#include "common/common.cuh"
#include "common/random.cuh"

namespace shunt {

__device__ __forceinline__ float normal_at(uint64 seed, uint64 index) {
  const uint64 a = splitmix64(seed * 0x9E3779B97F4A7C15ull + index);
  const uint64 b = splitmix64(a);
  const float u1 = static_cast<float>(static_cast<uint32>(a >> 40) + 1) * 0x1p-24f;
  const float u2 = static_cast<float>(static_cast<uint32>(b >> 40)) * 0x1p-24f;
  return ::sqrtf(-2.0f * ::logf(u1)) * ::cospif(2.0f * u2);
}

/// Config: Out, kThreads, kVec. The seed is an argument, so that all parameters of a type share one
/// kernel.
template <class C>
__device__ __forceinline__ void dummy(typename C::Out* out, int64 count, int64 seed, float mean,
                                      float stddev) {
  wait_for_predecessor();
  const int64 step = static_cast<int64>(gridDim.x) * C::kThreads * C::kVec;
  for (int64 i = (static_cast<int64>(blockIdx.x) * C::kThreads + threadIdx.x) * C::kVec; i < count;
       i += step) {
    Vec<typename C::Out, C::kVec> values;
#pragma unroll
    for (int j = 0; j < C::kVec; ++j) {
      values[j] = from_float<typename C::Out>(mean + stddev * normal_at(seed, i + j));
    }
    store(out + i, values);
  }
}

}  // namespace shunt
