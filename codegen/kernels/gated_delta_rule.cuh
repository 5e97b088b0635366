// gated_delta_rule, token by token: s *= exp(g); s += k (x) beta * (v - k . s); out = q . s. A
// block holds some columns of one head's state [kDim, kDimV] in registers over all tokens of a
// sequence: kKeyLanes neighbouring lanes share a column, dealt out to them in fours. Columns do not
// depend on each other.
#pragma once

#include "common/common.cuh"

namespace shunt {

/// Some tokens of one head, in shared memory: q and k normed and scaled (zero beyond kDim), the
/// block's columns of v.
template <class C>
struct alignas(16) DeltaStage {
  static constexpr int kPadded = round_up(C::kDim, 4 * C::kKeyLanes);
  float q[C::kStage][kPadded], k[C::kStage][kPadded], v[C::kStage][C::kCols];
  float decay[C::kStage], beta[C::kStage];
};

/// Loads `count` tokens from `token` on. All threads must call it; a barrier must follow.
template <class C>
__device__ __forceinline__ void load_stage(DeltaStage<C>& stage, const typename C::X* qkv,
                                           const float* g, const float* beta, int token, int count,
                                           int head, int first_col) {
  constexpr int kKeys = C::kKeyHeads * C::kDim;
  constexpr int kWidth = 2 * kKeys + C::kHeads * C::kDimV;
  constexpr int kPadded = DeltaStage<C>::kPadded;
  const int key_head = head / (C::kHeads / C::kKeyHeads);
  const typename C::X* rows = qkv + static_cast<int64>(token) * kWidth;
  // A warp a vector: q and k of each token in turn.
  for (int r = warp_index(); r < 2 * count; r += C::kThreads / 32) {
    const bool is_k = r % 2 != 0;
    const typename C::X* from =
        rows + static_cast<int64>(r / 2) * kWidth + (is_k ? kKeys : 0) + key_head * C::kDim;
    float* to = is_k ? stage.k[r / 2] : stage.q[r / 2];
    float squares = 0;
    for (int d = lane_index(); d < kPadded; d += 32) {
      to[d] = d < C::kDim ? to_float(from[d]) : 0.0f;
      squares += to[d] * to[d];
    }
    float scale = is_k ? 1.0f : C::kScale;
    if constexpr (C::kNorm) scale /= ::sqrtf(warp_sum(squares) + C::kEps);
    for (int d = lane_index(); d < kPadded; d += 32) to[d] *= scale;  // each lane its own elements
  }
  for (int i = threadIdx.x; i < count * C::kCols; i += C::kThreads) {
    const int t = i / C::kCols, col = first_col + i % C::kCols;
    const int64 at = static_cast<int64>(t) * kWidth + 2 * kKeys + head * C::kDimV + col;
    stage.v[t][i % C::kCols] = col < C::kDimV ? to_float(rows[at]) : 0.0f;
  }
  for (int t = threadIdx.x; t < count; t += C::kThreads) {
    const int64 at = static_cast<int64>(token + t) * C::kHeads + head;
    stage.decay[t] = ::expf(g[at]);
    stage.beta[t] = beta[at];
  }
}

/// One token of one column, of which this lane holds `s`; returns the column's element of the
/// result. Four sums side by side, since each waits for its last addition.
template <class C, int kFours>
__device__ __forceinline__ float delta_step(Vec<float, 4> (&s)[kFours], const DeltaStage<C>& stage,
                                            int t, int lane, int column) {
  const float decay = stage.decay[t];
  Vec<float, 4> k[kFours], known = zero_vec<float, 4>(), result = zero_vec<float, 4>();
#pragma unroll
  for (int j = 0; j < kFours; ++j) {
    k[j] = load<4>(stage.k[t] + (j * C::kKeyLanes + lane) * 4);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      s[j][e] *= decay;
      known[e] += s[j][e] * k[j][e];
    }
  }
  const float recalled = warp_sum<C::kKeyLanes>((known[0] + known[1]) + (known[2] + known[3]));
  const float delta = stage.beta[t] * (stage.v[t][column] - recalled);
#pragma unroll
  for (int j = 0; j < kFours; ++j) {
    const Vec<float, 4> q = load<4>(stage.q[t] + (j * C::kKeyLanes + lane) * 4);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      s[j][e] += k[j][e] * delta;
      result[e] += s[j][e] * q[e];
    }
  }
  return warp_sum<C::kKeyLanes>((result[0] + result[1]) + (result[2] + result[3]));
}

/// out[T, kHeads, kDimV] and the rows [kHeads, kDim, kDimV] of the slot state. A block a sequence,
/// a head and kCols columns; the grid is linear in that order.
/// Config: X, State, kKeyHeads, kHeads, kDim, kDimV, kKeyLanes, kCols, kStage, kThreads = kKeyLanes
/// * kCols, kScale, kNorm, kEps.
template <class C>
__device__ __forceinline__ void gated_delta_rule(const typename C::X* qkv, const float* g,
                                                 const float* beta, const int* positions,
                                                 const int* seq_starts, const int* state_slots,
                                                 typename C::State* state, typename C::X* out) {
  constexpr int kFours = DeltaStage<C>::kPadded / (4 * C::kKeyLanes);  // of a lane
  constexpr int kTiles = ceil_div(C::kDimV, C::kCols);
  __shared__ DeltaStage<C> stage;
  wait_for_predecessor();
  launch_dependents();
  const int sequence = blockIdx.x / (kTiles * C::kHeads);
  const int head = blockIdx.x / kTiles % C::kHeads, first_col = blockIdx.x % kTiles * C::kCols;
  const int begin = seq_starts[sequence], end = seq_starts[sequence + 1];
  if (begin == end) return;
  const int lane = threadIdx.x % C::kKeyLanes, mine = threadIdx.x / C::kKeyLanes;
  const int col = first_col + mine;
  const bool inside = col < C::kDimV;
  typename C::State* column =
      state + (static_cast<int64>(state_slots[sequence]) * C::kHeads + head) * C::kDim * C::kDimV +
      col;
  const bool old = inside && positions[begin] != 0;
  Vec<float, 4> s[kFours];
#pragma unroll
  for (int i = 0; i < 4 * kFours; ++i) {
    const int d = (i / 4 * C::kKeyLanes + lane) * 4 + i % 4;
    s[i / 4][i % 4] =
        old && d < C::kDim ? to_float(column[static_cast<int64>(d) * C::kDimV]) : 0.0f;
  }
  for (int first = begin; first < end; first += C::kStage) {
    const int count = min(C::kStage, end - first);
    __syncthreads();  // the last stage has been read
    load_stage<C>(stage, qkv, g, beta, first, count, head, first_col);
    __syncthreads();
    for (int t = 0; t < count; ++t) {
      const float result = delta_step<C>(s, stage, t, lane, mine);
      if (inside && lane == 0) {
        out[(static_cast<int64>(first + t) * C::kHeads + head) * C::kDimV + col] =
            from_float<typename C::X>(result);
      }
    }
  }
  if (!inside) return;
#pragma unroll
  for (int i = 0; i < 4 * kFours; ++i) {
    const int d = (i / 4 * C::kKeyLanes + lane) * 4 + i % 4;
    if (d < C::kDim) {
      column[static_cast<int64>(d) * C::kDimV] = from_float<typename C::State>(s[i / 4][i % 4]);
    }
  }
}

}  // namespace shunt
