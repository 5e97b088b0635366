// Rotary embedding and the append to paged state: rope, kv_append, and both with QK norms in one,
// rope_append.
//
// Angles are position * inv_freq in float32, with the accurate sincosf. Rows of padded tokens (t >=
// the true T) never reach the state.
#pragma once

#include "common/common.cuh"
#include "common/paged.cuh"

namespace shunt {

/// The block's cosines and sines of one position, times kScale. All threads must call it; a barrier
/// must follow.
template <class C>
__device__ __forceinline__ void fill_angles(const float* inv_freq, int position, float* cosines,
                                            float* sines) {
  for (int i = threadIdx.x; i < C::kRotary / 2; i += C::kThreads) {
    float s, c;
    ::sincosf(static_cast<float>(position) * inv_freq[i], &s, &c);
    cosines[i] = c * C::kScale;
    sines[i] = s * C::kScale;
  }
}

/// Element d of a head after rotation; `head` is the unrotated head in shared memory.
template <class C>
__device__ __forceinline__ float rotated(const float* head, int d, const float* cosines,
                                         const float* sines) {
  constexpr int kHalf = C::kRotary / 2;
  const float x = head[d];
  if (d >= C::kRotary) return x;
  if constexpr (C::kInterleaved) {
    const int i = d / 2;
    return d % 2 == 0 ? x * cosines[i] - head[d + 1] * sines[i]
                      : x * cosines[i] + head[d - 1] * sines[i];
  } else {
    return d < kHalf ? x * cosines[d] - head[d + kHalf] * sines[d]
                     : x * cosines[d - kHalf] + head[d - kHalf] * sines[d - kHalf];
  }
}

/// out[T, kHeads, kDim] = x rotated. A block a token and a chunk of heads, a warp a head.
/// Config: X, Out, kHeads, kDim, kVec, kRotary, kInterleaved, kScale, kThreads.
template <class C>
__device__ __forceinline__ void rope(const typename C::X* x, const int* positions,
                                     const float* inv_freq, typename C::Out* out,
                                     int heads_per_block) {
  constexpr int kWarps = C::kThreads / 32;
  constexpr int kVectors = C::kDim / C::kVec;
  __shared__ float cosines[C::kRotary / 2 + 1], sines[C::kRotary / 2 + 1];
  __shared__ float heads[kWarps][C::kDim];
  wait_for_predecessor();
  launch_dependents();
  const int token = blockIdx.x;
  fill_angles<C>(inv_freq, positions[token], cosines, sines);
  __syncthreads();
  float* head = heads[warp_index()];
  const int first = blockIdx.y * heads_per_block;
  for (int h = first + warp_index(); h < ::min(first + heads_per_block, C::kHeads); h += kWarps) {
    const int64 base = (static_cast<int64>(token) * C::kHeads + h) * C::kDim;
    for (int i = lane_index(); i < kVectors; i += 32) {
      const Vec<float, C::kVec> v = to_float(load<C::kVec>(x + base + i * C::kVec));
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) head[i * C::kVec + j] = v[j];
    }
    __syncwarp();
    for (int i = lane_index(); i < kVectors; i += 32) {
      Vec<float, C::kVec> v;
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) v[j] = rotated<C>(head, i * C::kVec + j, cosines, sines);
      store(out + base + i * C::kVec, from_float<typename C::Out>(v));
    }
    __syncwarp();  // the next head overwrites the shared one
  }
}

/// k[T, kHeads, kDim] and v[T, kHeads, kDimV] into their states; kDimV is 0 without v. A block a
/// token.
/// Config: K, V, StateK, StateV, kHeads, kDim, kDimV, kVec, kVecV, kPageSize, kTableCols, kDecode,
/// kThreads.
template <class C>
__device__ __forceinline__ void kv_append(const typename C::K* k, const typename C::V* v,
                                          const int* positions, const int* seq_starts,
                                          const int* block_tables, typename C::StateK* state_k,
                                          typename C::StateV* state_v, int T, const int* true_T,
                                          int S, const int* true_S) {
  wait_for_predecessor();
  launch_dependents();
  const int token = blockIdx.x;
  if (token >= true_size(true_T, T)) return;
  const int sequence = C::kDecode ? token : find_sequence(seq_starts, true_size(true_S, S), token);
  const int64 row = paged_row<C::kPageSize>(
      block_tables + static_cast<int64>(sequence) * C::kTableCols, positions[token]);
  constexpr int kRowK = C::kHeads * C::kDim, kRowV = C::kHeads * C::kDimV;
  for (int i = threadIdx.x; i < kRowK / C::kVec; i += C::kThreads) {
    const auto value = to_float(load<C::kVec>(k + static_cast<int64>(token) * kRowK + i * C::kVec));
    store(state_k + row * kRowK + i * C::kVec, from_float<typename C::StateK>(value));
  }
  for (int i = threadIdx.x; i < kRowV / C::kVecV; i += C::kThreads) {
    const auto value =
        to_float(load<C::kVecV>(v + static_cast<int64>(token) * kRowV + i * C::kVecV));
    store(state_v + row * kRowV + i * C::kVecV, from_float<typename C::StateV>(value));
  }
}

/// 1 / rms of kCount elements at x, over the whole block.
template <class C, int kCount>
__device__ __forceinline__ float block_inverse_rms(const typename C::X* x, float* scratch) {
  float squares = 0;
  for (int i = threadIdx.x; i < kCount / C::kVec; i += C::kThreads) {
    const Vec<float, C::kVec> v = to_float(load<C::kVec>(x + i * C::kVec));
#pragma unroll
    for (int j = 0; j < C::kVec; ++j) squares += v[j] * v[j];
  }
  return 1.0f / ::sqrtf(block_sum<C::kThreads>(squares, scratch) / kCount + C::kEps);
}

/// qkv[T, (kHeads + 2*kKvHeads) * kDim] -> q[T, kHeads, kDim] and rows of the states. A block a
/// token and a chunk of heads, a warp a head; heads are counted through q, k and v. Config: X, Q,
/// StateK, StateV, WQ, WK, kHeads, kKvHeads, kDim, kVec, kRotary (0: no rotation), kInterleaved,
/// kScale, kNorm (0 none, 1 a head, 2 the full width), kPlusOne, kEps, kPageSize, kTableCols,
/// kDecode, kThreads.
template <class C>
__device__ __forceinline__ void rope_append(const typename C::X* qkv, const int* positions,
                                            const float* inv_freq, const typename C::WQ* q_norm,
                                            const typename C::WK* k_norm, const int* seq_starts,
                                            const int* block_tables, typename C::StateK* state_k,
                                            typename C::StateV* state_v, typename C::Q* q,
                                            int heads_per_block, int T, const int* true_T, int S,
                                            const int* true_S) {
  constexpr int kWarps = C::kThreads / 32;
  constexpr int kVectors = C::kDim / C::kVec;
  constexpr int kAllHeads = C::kHeads + 2 * C::kKvHeads;
  __shared__ float cosines[C::kRotary / 2 + 1], sines[C::kRotary / 2 + 1];
  __shared__ float scratch[2][kWarps];
  __shared__ float heads[kWarps][C::kDim];
  wait_for_predecessor();
  launch_dependents();
  const int token = blockIdx.x;
  if (token >= true_size(true_T, T)) return;
  const typename C::X* row = qkv + static_cast<int64>(token) * kAllHeads * C::kDim;
  const int position = positions[token];
  fill_angles<C>(inv_freq, position, cosines, sines);
  float q_scale = 1, k_scale = 1;
  if constexpr (C::kNorm == 2) {
    q_scale = block_inverse_rms<C, C::kHeads * C::kDim>(row, scratch[0]);
    k_scale = block_inverse_rms<C, C::kKvHeads * C::kDim>(row + C::kHeads * C::kDim, scratch[1]);
  }
  const int sequence = C::kDecode ? token : find_sequence(seq_starts, true_size(true_S, S), token);
  const int64 state_row = paged_row<C::kPageSize>(
      block_tables + static_cast<int64>(sequence) * C::kTableCols, position);
  __syncthreads();

  float* head = heads[warp_index()];
  const int first = blockIdx.y * heads_per_block;
  for (int h = first + warp_index(); h < ::min(first + heads_per_block, kAllHeads); h += kWarps) {
    const bool is_q = h < C::kHeads;
    const bool is_v = h >= C::kHeads + C::kKvHeads;
    const int kv_head = is_q ? 0 : is_v ? h - C::kHeads - C::kKvHeads : h - C::kHeads;
    float squares = 0;
    for (int i = lane_index(); i < kVectors; i += 32) {
      const Vec<float, C::kVec> v = to_float(load<C::kVec>(row + h * C::kDim + i * C::kVec));
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) {
        head[i * C::kVec + j] = v[j];
        squares += v[j] * v[j];
      }
    }
    if (C::kNorm != 0 && !is_v) {
      float scale = is_q ? q_scale : k_scale;
      if constexpr (C::kNorm == 1) scale = 1.0f / ::sqrtf(warp_sum(squares) / C::kDim + C::kEps);
      const int offset = C::kNorm == 1 ? 0 : (is_q ? h : kv_head) * C::kDim;
      for (int i = lane_index(); i < kVectors;
           i += 32) {  // each lane its own elements: no barrier needed
#pragma unroll
        for (int j = 0; j < C::kVec; ++j) {
          const int d = i * C::kVec + j;
          const float w = is_q ? to_float(q_norm[offset + d]) : to_float(k_norm[offset + d]);
          head[d] = head[d] * scale * (C::kPlusOne ? 1.0f + w : w);
        }
      }
    }
    __syncwarp();
    const int64 state_at = (state_row * C::kKvHeads + kv_head) * C::kDim;
    for (int i = lane_index(); i < kVectors; i += 32) {
      const int d = i * C::kVec;
      Vec<float, C::kVec> v;
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) {
        v[j] = is_v || C::kRotary == 0 ? head[d + j] : rotated<C>(head, d + j, cosines, sines);
      }
      if (is_q) {
        store(q + (static_cast<int64>(token) * C::kHeads + h) * C::kDim + d,
              from_float<typename C::Q>(v));
      } else if (is_v) {
        store(state_v + state_at + d, from_float<typename C::StateV>(v));
      } else {
        store(state_k + state_at + d, from_float<typename C::StateK>(v));
      }
    }
    __syncwarp();  // the next head overwrites the shared one
  }
}

}  // namespace shunt
