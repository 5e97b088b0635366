// rms_norm, layer_norm and add_norm: a warp or a block a row, the row held in registers, one
// rounding at the end.
//
// Config: X, Y, W, B, Sum, Out (element types), kCols, kVec (elements a move), kThreads,
// kRowThreads (threads a row: 32 or kThreads), kLayer, kAdd, kHasBias, kPlusOne, kEps.
#pragma once

#include "common/common.cuh"

namespace shunt {

/// Sum over the threads of a row. `scratch` must not be in use.
template <class C>
__device__ __forceinline__ float row_sum(float x, float* scratch) {
  if constexpr (C::kRowThreads == 32) {
    return warp_sum(x);
  } else {
    return block_sum<C::kThreads>(x, scratch);
  }
}

/// out[rows, kCols] = norm(x (+ y)) * weight (+ bias); with kAdd also sum = x + y.
template <class C>
__device__ __forceinline__ void norm(const typename C::X* x, const typename C::Y* y,
                                     const typename C::W* weight, const typename C::B* bias,
                                     typename C::Sum* sum, typename C::Out* out, int rows) {
  constexpr int kVectors = C::kCols / C::kVec;
  constexpr int kPer = ceil_div(kVectors, C::kRowThreads);
  __shared__ float scratch[2][C::kThreads / 32];
  const int row = blockIdx.x * (C::kThreads / C::kRowThreads) + threadIdx.x / C::kRowThreads;
  const int thread = threadIdx.x % C::kRowThreads;
  wait_for_predecessor();
  launch_dependents();
  if (row >= rows) return;  // the same for all threads of a row

  const int64 base = static_cast<int64>(row) * C::kCols;
  Vec<float, C::kVec> values[kPer];
  float total = 0;
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int vector = i * C::kRowThreads + thread;
    if (vector >= kVectors) {
      values[i] = zero_vec<float, C::kVec>();
      continue;
    }
    const int col = vector * C::kVec;
    values[i] = to_float(load<C::kVec>(x + base + col));
    if constexpr (C::kAdd) {
      const Vec<float, C::kVec> other = to_float(load<C::kVec>(y + base + col));
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) values[i][j] += other[j];
      store(sum + base + col, from_float<typename C::Sum>(values[i]));
    }
#pragma unroll
    for (int j = 0; j < C::kVec; ++j)
      total += C::kLayer ? values[i][j] : values[i][j] * values[i][j];
  }

  float mean = 0;
  float squares = row_sum<C>(total, scratch[0]);
  if constexpr (C::kLayer) {  // a second pass over the registers: no cancellation
    mean = squares / C::kCols;
    total = 0;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      if (i * C::kRowThreads + thread >= kVectors) continue;
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) {
        const float d = values[i][j] - mean;
        total += d * d;
      }
    }
    squares = row_sum<C>(total, scratch[1]);
  }
  const float scale = 1.0f / ::sqrtf(squares / C::kCols + C::kEps);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int vector = i * C::kRowThreads + thread;
    if (vector >= kVectors) continue;
    const int col = vector * C::kVec;
    const Vec<float, C::kVec> w = to_float(load<C::kVec>(weight + col));
    Vec<float, C::kVec> result;
#pragma unroll
    for (int j = 0; j < C::kVec; ++j) {
      result[j] = (values[i][j] - mean) * scale * (C::kPlusOne ? 1.0f + w[j] : w[j]);
    }
    if constexpr (C::kHasBias) {
      const Vec<float, C::kVec> b = to_float(load<C::kVec>(bias + col));
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) result[j] += b[j];
    }
    store(out + base + col, from_float<typename C::Out>(result));
  }
}

}  // namespace shunt
