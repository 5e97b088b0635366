// attention and encoder_attention for any head size and element type: a block of four warps a
// (token, head). Each warp takes every fourth group of keys with a softmax of its own; the warps are
// merged at the end. An encoder has neither kv_lens nor block_tables.
//
// Config: Q, K, V, Sink, Slope, Out, kHasSlopes, kHeads, kKvHeads, kDim, kDimV, kRowV
// (elements from one row of V to the next), kPageSize, kTableCols, kThreads (128),
// and those of attention_common.cuh.
#pragma once

#include "attention_common.cuh"

namespace shunt {

template <class C>
__device__ __forceinline__ void attention_portable(const typename C::Q* q, const int* seq_starts,
                                                   const int* kv_lens, const int* block_tables,
                                                   const typename C::K* k, const typename C::V* v,
                                                   const typename C::Sink* sinks,
                                                   const typename C::Slope* slopes,
                                                   typename C::Out* out, int T, const int* true_T,
                                                   int S, const int* true_S) {
  using namespace attention;
  constexpr int kWarps = C::kThreads / 32;
  constexpr int kPer = ceil_div(C::kDim, 32), kPerV = ceil_div(C::kDimV, 32);
  constexpr int kKeys = 4;  // keys a warp has in flight
  __shared__ float merged[kWarps][C::kDimV];
  __shared__ float maxima[kWarps], sums[kWarps];
  wait_for_predecessor();
  launch_dependents();
  const int token = blockIdx.x, head = blockIdx.y, kv_head = head / (C::kHeads / C::kKvHeads);
  if (token >= true_size(true_T, T)) return;
  const int sequence = find_sequence(seq_starts, true_size(true_S, S), token);
  const int start = seq_starts[sequence], end = seq_starts[sequence + 1];
  const int position = C::kEncoder ? end - start - 1 : kv_lens[sequence] - end + token;
  const KeyRows<C> key_row{block_tables + static_cast<int64>(sequence) * C::kTableCols, start};
  const int lane = lane_index(), warp = warp_index();

  float query[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int d = i * 32 + lane;
    query[i] =
        d < C::kDim ? to_float(q[(static_cast<int64>(token) * C::kHeads + head) * C::kDim + d]) : 0;
  }
  float slope = 0;  // in units of log 2, as the scores are
  if constexpr (C::kHasSlopes) slope = to_float(slopes[head]) * kLog2E;
  float maximum = minus_infinity(), sum = 0, acc[kPerV] = {};
  for (int key0 = first_key<C>(position) + warp * kKeys; key0 <= position; key0 += kWarps * kKeys) {
    float s[kKeys];
    int64 rows[kKeys];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      rows[j] = key_row(::min(key0 + j, position)) * C::kKvHeads + kv_head;
      s[j] = 0;
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        const int d = i * 32 + lane;
        if (d < C::kDim) s[j] += query[i] * to_float(k[rows[j] * C::kDim + d]);
      }
    }
    float top = maximum;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      s[j] = score<C>(warp_sum(s[j]));
      if constexpr (C::kHasSlopes) s[j] += slope * static_cast<float>(key0 + j - position);
      if (key0 + j > position) s[j] = minus_infinity();
      top = ::fmaxf(top, s[j]);
    }
    const float shrink = exp2_fast(maximum - top);  // top is finite: key0 is visible
    maximum = top;
    sum *= shrink;
#pragma unroll
    for (int i = 0; i < kPerV; ++i) acc[i] *= shrink;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const float p = exp2_fast(s[j] - top);
      sum += p;
#pragma unroll
      for (int i = 0; i < kPerV; ++i) {
        const int d = i * 32 + lane;
        if (d < C::kDimV) acc[i] += p * to_float(v[rows[j] * C::kRowV + d]);
      }
    }
  }

  if (lane == 0) {
    maxima[warp] = maximum;
    sums[warp] = sum;
  }
#pragma unroll
  for (int i = 0; i < kPerV; ++i) {
    if (i * 32 + lane < C::kDimV) merged[warp][i * 32 + lane] = acc[i];
  }
  __syncthreads();
  float top = minus_infinity(), total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) top = ::fmaxf(top, maxima[w]);
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += sums[w] * exp2_from(maxima[w], top);
  const float scale = final_scale<C>(top, total, sinks, head);
  for (int d = threadIdx.x; d < C::kDimV; d += C::kThreads) {
    float result = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) result += merged[w][d] * exp2_from(maxima[w], top);
    out[(static_cast<int64>(token) * C::kHeads + head) * C::kDimV + d] =
        from_float<typename C::Out>(result * scale);
  }
}

}  // namespace shunt
