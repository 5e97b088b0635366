// The router: topk_gate on given logits, and norm_gate, which makes them (residual add, RMS norm,
// router matmul). Everything in float32; equal scores go to the lowest expert.
//
// Config of gate_row: SelectionBias, kExperts, kTop (at most 32), kScore (ir::ScoreFunction),
// kRouteNorm (ir::RouteNorm), kNormEps, kNormMin, kRouteScale, kJitter, kGroups, kKeepGroups, kGroupTop2,
// kHasSelectionBias, kHasForced, kCounts (the routes are final: they go into counts[kExperts]).
#pragma once

#include "common/arrivals.cuh"
#include "common/common.cuh"
#include "common/paged.cuh"
#include "common/route_counts.cuh"

namespace shunt {

namespace gate {

enum Score { kSoftmax = 0, kSigmoid = 1, kSqrtSoftplus = 2, kIdentity = 3, kSparseMixer = 4 };
enum RouteNorm { kNone = 0, kSum = 1, kSoftmaxOfChosen = 2 };

/// Scratch of one warp, used with groups only.
template <class C>
struct GroupScratch {
  float choose[C::kGroups > 1 ? C::kExperts : 1];
  float group[C::kGroups];
};

/// Expert e = 32 * i + lane is element i of a lane.
template <class C>
inline constexpr int kPerLane = ceil_div(C::kExperts, 32);

template <class C>
__device__ __forceinline__ void scores(const float* logits, float (&score)[kPerLane<C>]) {
  constexpr int kPer = kPerLane<C>;
  const int lane = lane_index();
  float top = __uint_as_float(0xff800000u);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const bool exists = i * 32 + lane < C::kExperts;
    score[i] = exists ? logits[i * 32 + lane] : __uint_as_float(0xff800000u);
    top = ::fmaxf(top, score[i]);
  }
  if constexpr (C::kScore == kSoftmax) {
    top = warp_max(top);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      score[i] = ::expf(score[i] - top);
      sum += score[i];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < kPer; ++i) score[i] /= sum;
  } else if constexpr (C::kScore == kSigmoid) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) score[i] = sigmoid(score[i]);
  } else if constexpr (C::kScore == kSqrtSoftplus) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      score[i] = ::sqrtf(::fmaxf(score[i], 0.0f) + ::log1pf(::expf(-::fabsf(score[i]))));
    }
  }
}

/// True if the sparse mixer counts a logit beside the largest one left.
template <class C>
__device__ __forceinline__ bool is_near(float logit, float top) {
  return !((top - logit) / ::fmaxf(::fabsf(logit), top) > C::kJitter);
}

/// Masks the experts outside the best kKeepGroups groups with minus infinity.
template <class C>
__device__ __forceinline__ void keep_best_groups(float (&choose)[kPerLane<C>],
                                                 GroupScratch<C>& scratch) {
  constexpr int kSize = C::kExperts / C::kGroups;
  const int lane = lane_index();
#pragma unroll
  for (int i = 0; i < kPerLane<C>; ++i) {
    if (i * 32 + lane < C::kExperts) scratch.choose[i * 32 + lane] = choose[i];
  }
  __syncwarp();
  for (int g = lane; g < C::kGroups; g += 32) {
    float first = __uint_as_float(0xff800000u), second = first;
    for (int e = 0; e < kSize; ++e) {
      const float x = scratch.choose[g * kSize + e];
      second = ::fmaxf(second, ::fminf(first, x));
      first = ::fmaxf(first, x);
    }
    scratch.group[g] = C::kGroupTop2 ? first + second : first;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPerLane<C>; ++i) {
    const int mine = (i * 32 + lane) / kSize;
    if (i * 32 + lane >= C::kExperts) continue;
    int better = 0;
    for (int g = 0; g < C::kGroups; ++g) {
      const float a = scratch.group[g], b = scratch.group[mine];
      better += a > b || (a == b && g < mine);
    }
    if (better >= C::kKeepGroups) choose[i] = __uint_as_float(0xff800000u);
  }
  __syncwarp();
}

/// The gate of one token by one warp. `forced` is its row of forced ids, or anything without
/// kHasForced. A token that is only padding (not `valid`) gets ids of -1.
template <class C>
__device__ __forceinline__ void gate_row(const float* logits, const typename C::SelectionBias* bias,
                                         const int* forced, float* w, int* ids, int64* counts,
                                         bool valid, GroupScratch<C>& scratch) {
  constexpr int kPer = kPerLane<C>;
  const int lane = lane_index();
  if (!valid) {
    if (lane < C::kTop) {
      w[lane] = 0;
      ids[lane] = -1;
    }
    return;
  }
  float score[kPer], choose[kPer];
  scores<C>(logits, score);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    choose[i] = score[i];
    if constexpr (C::kHasSelectionBias) {
      if (i * 32 + lane < C::kExperts) choose[i] += to_float(bias[i * 32 + lane]);
    }
  }
  if constexpr (C::kGroups > 1) keep_best_groups<C>(choose, scratch);

  int forced_id = -1;
  bool is_forced = false;
  if constexpr (C::kHasForced) {
    if (lane < C::kTop) forced_id = forced[lane];
    is_forced = __shfl_sync(kFullWarp, forced_id, 0) >= 0;
  }
  uint32 key[kPer];  // 0: absent or taken
#pragma unroll
  for (int i = 0; i < kPer; ++i) key[i] = i * 32 + lane < C::kExperts ? ordered(choose[i]) : 0;
  float my_weight = 0;
  int my_id = -1;
#pragma unroll 1
  for (int j = 0; j < C::kTop; ++j) {
    int id = __shfl_sync(kFullWarp, forced_id, j);
    if (!is_forced) {
      uint32 best = 0;
      int best_id = lane;
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        if (key[i] > best) {
          best = key[i];
          best_id = i * 32 + lane;
        }
      }
      const uint32 top = __reduce_max_sync(kFullWarp, best);
      id = static_cast<int>(
          __reduce_min_sync(kFullWarp, best == top ? static_cast<uint32>(best_id) : 0x7fffffffu));
    }
    float top_score = 0, near_sum = 0;
    if constexpr (C::kScore == kSparseMixer) {
      // The softmax runs over what is left and near to the largest of it.
      top_score = __uint_as_float(0xff800000u);
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        if (key[i] != 0) top_score = ::fmaxf(top_score, score[i]);
      }
      top_score = warp_max(top_score);
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        if (key[i] != 0 && is_near<C>(score[i], top_score)) {
          near_sum += ::expf(score[i] - top_score);
        }
      }
      near_sum = warp_sum(near_sum);
    }
    float value = 0;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      if (i * 32 + lane == id) {
        value = score[i];
        if constexpr (C::kScore == kSparseMixer) {
          const bool counts = key[i] != 0 && is_near<C>(score[i], top_score);
          value = counts ? ::expf(score[i] - top_score) / near_sum : 0.0f;
        }
        key[i] = 0;
      }
    }
    value = __shfl_sync(kFullWarp, value, id & 31);
    if (lane == j) {
      my_weight = value;
      my_id = id;
    }
  }

  const bool mine = lane < C::kTop && my_id >= 0;  // a forced id may be -1
  if constexpr (C::kRouteNorm == kSum) {
    my_weight /= ::fmaxf(warp_sum(mine ? my_weight : 0.0f) + C::kNormEps, C::kNormMin);
  } else if constexpr (C::kRouteNorm == kSoftmaxOfChosen) {
    const float top = warp_max(mine ? my_weight : __uint_as_float(0xff800000u));
    my_weight = mine ? ::expf(my_weight - top) : 0.0f;
    my_weight /= warp_sum(my_weight);
  }
  if (lane < C::kTop) {
    w[lane] = mine ? my_weight * C::kRouteScale : 0.0f;
    ids[lane] = my_id;
  }
  if constexpr (C::kCounts) {
    if (mine) count_route(counts, my_id);
  }
}

}  // namespace gate

/// w[T, kTop], ids[T, kTop] from logits[T, kExperts]; a warp a token. `counts` may be null without
/// kCounts. Config: that of gate_row, and kThreads.
template <class C>
__device__ __forceinline__ void topk_gate(const float* logits,
                                          const typename C::SelectionBias* bias, const int* forced,
                                          float* w, int* ids, int64* counts, int T,
                                          const int* true_T) {
  constexpr int kWarps = C::kThreads / 32;
  __shared__ gate::GroupScratch<C> scratch[kWarps];
  wait_for_predecessor();
  launch_dependents();
  const int token = blockIdx.x * kWarps + warp_index();
  if (token >= T) return;
  const int64 at = static_cast<int64>(token) * C::kTop;
  gate::gate_row<C>(logits + static_cast<int64>(token) * C::kExperts, bias, forced + at, w + at,
                    ids + at, counts, token < true_size(true_T, T), scratch[warp_index()]);
}

namespace gate {

/// Arrivals of the blocks that share a tile of tokens.
template <int kCount>
__device__ unsigned int arrivals[kCount];

/// Where column `col` of a normed row lies in shared memory. With 8 columns a lane, the two 16-byte
/// halves of all lanes lie apart, so that a warp's reads meet no bank twice.
template <class C>
__device__ __forceinline__ int smem_column(int col) {
  if constexpr (C::kVec == 8) {
    return col / 4 % 2 * (C::kCols / 2) + col / 8 * 4 + col % 4;
  } else {
    return col;
  }
}
template <class C>
__device__ __forceinline__ Vec<float, C::kVec> smem_vector(const float* row, int vector) {
  Vec<float, C::kVec> v;
  if constexpr (C::kVec == 8) {
    const Vec<float, 4> low = load<4>(row + vector * 4),
                        high = load<4>(row + C::kCols / 2 + vector * 4);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      v[j] = low[j];
      v[4 + j] = high[j];
    }
  } else {
    v = load<C::kVec>(row + vector * C::kVec);
  }
  return v;
}

/// The first half of norm_gate: sum and normed of the tile's tokens, the float32 normed values into
/// shared memory.
template <class C>
__device__ __forceinline__ void norm_tile(const typename C::X* x, const typename C::Y* y,
                                          const typename C::W* weight, typename C::X* sum,
                                          typename C::X* normed, float* rows, float* scratch,
                                          int first, int T, bool writes) {
  constexpr int kVectors = C::kCols / C::kVec;
  constexpr int kTokenThreads = C::kThreads / C::kTokens;
  constexpr int kTokenWarps = kTokenThreads / 32;
  const int tile_row = threadIdx.x / kTokenThreads, thread = threadIdx.x % kTokenThreads;
  const int token = ::min(first + tile_row, T - 1);  // a row past the end repeats the last one
  writes = writes && first + tile_row < T;
  const int64 base = static_cast<int64>(token) * C::kCols;
  float* row = rows + tile_row * C::kCols;
  float squares = 0;
  for (int i = thread; i < kVectors; i += kTokenThreads) {
    const int col = i * C::kVec;
    Vec<float, C::kVec> v = to_float(load<C::kVec>(x + base + col));
    if constexpr (C::kHasY) {
      const Vec<float, C::kVec> other = to_float(load<C::kVec>(y + base + col));
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) v[j] += other[j];
    }
    if (writes) store(sum + base + col, from_float<typename C::X>(v));
#pragma unroll
    for (int j = 0; j < C::kVec; ++j) {
      squares += v[j] * v[j];
      row[smem_column<C>(col + j)] = v[j];
    }
  }
  squares = warp_sum(squares);
  if (lane_index() == 0) scratch[warp_index()] = squares;
  __syncthreads();
  squares = 0;
#pragma unroll
  for (int i = 0; i < kTokenWarps; ++i) squares += scratch[tile_row * kTokenWarps + i];
  const float scale = 1.0f / ::sqrtf(squares / C::kCols + C::kEps);
  for (int i = thread; i < kVectors; i += kTokenThreads) {  // each thread its own elements again
    const int col = i * C::kVec;
    const Vec<float, C::kVec> w = to_float(load<C::kVec>(weight + col));
    Vec<float, C::kVec> v;
#pragma unroll
    for (int j = 0; j < C::kVec; ++j) {
      float& at = row[smem_column<C>(col + j)];
      v[j] = at * scale * (C::kPlusOne ? 1.0f + w[j] : w[j]);
      at = v[j];
    }
    if (writes) store(normed + base + col, from_float<typename C::X>(v));
  }
  __syncthreads();
}

/// gate_row of a tile's tokens, from `first` on, by a block of kThreads.
template <class C>
__device__ __forceinline__ void gate_tile(const float* logits,
                                          const typename C::SelectionBias* bias, const int* forced,
                                          float* w, int* ids, int64* counts, int first, int T,
                                          const int* true_T, GroupScratch<C>* scratch) {
  const int tokens = true_size(true_T, T);
  for (int t = warp_index(); t < C::kTokens && first + t < T; t += C::kThreads / 32) {
    const int64 token = first + t, at = token * C::kTop;
    gate_row<C>(logits + token * C::kExperts, bias, forced + at, w + at, ids + at, counts,
                token < tokens, scratch[warp_index()]);
  }
}

}  // namespace gate

/// blockIdx.x is a tile of kTokens tokens, blockIdx.y a chunk of `chunk_rows` experts; every chunk
/// repeats the norm. The block that is last for a tile picks its experts. A warp takes kWarpRows
/// router rows at a time; where it has no more than that and they fit in registers (kHold), they
/// are read before the predecessor has ended. Config: that of gate_row, X, Y, W, Router,
/// RouterBias, kCols, kVec, kThreads, kTokens, kWarpRows, kHold, kHasY, kHasRouterBias, kPlusOne,
/// kEps, kMaxCounters. Dynamic shared memory: float[kTokens, kCols].
template <class C>
__device__ __forceinline__ void norm_gate(const typename C::X* x, const typename C::Y* y,
                                          const typename C::W* weight,
                                          const typename C::Router* router,
                                          const typename C::RouterBias* router_bias,
                                          const typename C::SelectionBias* bias, const int* forced,
                                          typename C::X* sum, typename C::X* normed, float* logits,
                                          float* w, int* ids, int64* counts, int chunk_rows,
                                          int T, const int* true_T) {
  constexpr int kWarps = C::kThreads / 32;
  constexpr int kVectors = C::kCols / C::kVec;
  constexpr int kSteps = ceil_div(kVectors, 32);
  __shared__ gate::GroupScratch<C> scratch[kWarps];
  __shared__ float sums[kWarps];
  float* rows = dynamic_smem<float>();
  const int first_token = blockIdx.x * C::kTokens;
  const int first_row = blockIdx.y * chunk_rows;
  const int end_row = ::min(first_row + chunk_rows, C::kExperts);
  const int lane = lane_index();

  using RouterVec = Vec<typename C::Router, C::kVec>;
  const auto router_vector = [&](int row, int step) {
    const int vector = step * 32 + lane;
    if (vector >= kVectors) return zero_vec<typename C::Router, C::kVec>();
    return load_stream<C::kVec>(router + static_cast<int64>(::min(row, end_row - 1)) * C::kCols +
                                vector * C::kVec);
  };
  RouterVec held[C::kHold ? C::kWarpRows : 1][C::kHold ? kSteps : 1];
  if constexpr (C::kHold) {
#pragma unroll
    for (int r = 0; r < C::kWarpRows; ++r) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        held[r][i] = router_vector(first_row + warp_index() * C::kWarpRows + r, i);
      }
    }
  }
  wait_for_predecessor();
  launch_dependents();
  gate::norm_tile<C>(x, y, weight, sum, normed, rows, sums, first_token, T, blockIdx.y == 0);

  for (int row = first_row + warp_index() * C::kWarpRows; row < end_row;
       row += kWarps * C::kWarpRows) {
    float acc[C::kWarpRows][C::kTokens] = {};
#pragma unroll(C::kHold ? kSteps : 1)
    for (int i = 0; i < kSteps; ++i) {
      Vec<float, C::kVec> m[C::kWarpRows];
#pragma unroll
      for (int r = 0; r < C::kWarpRows; ++r) {
        if constexpr (C::kHold) {
          m[r] = to_float(held[r][i]);
        } else {
          m[r] = to_float(router_vector(row + r, i));
        }
      }
      const int vector =
          ::min(i * 32 + lane, kVectors - 1);  // beyond the end the router's part is zero
#pragma unroll
      for (int t = 0; t < C::kTokens; ++t) {
        const Vec<float, C::kVec> v = gate::smem_vector<C>(rows + t * C::kCols, vector);
#pragma unroll
        for (int r = 0; r < C::kWarpRows; ++r) {
#pragma unroll
          for (int j = 0; j < C::kVec; ++j) acc[r][t] += m[r][j] * v[j];
        }
      }
    }
#pragma unroll
    for (int r = 0; r < C::kWarpRows; ++r) {
#pragma unroll
      for (int t = 0; t < C::kTokens; ++t) {
        float dot = warp_sum(acc[r][t]);
        if (lane != t || row + r >= end_row || first_token + t >= T) continue;
        if constexpr (C::kHasRouterBias) dot += to_float(router_bias[row + r]);
        logits[static_cast<int64>(first_token + t) * C::kExperts + row + r] = dot;
      }
    }
  }

  if (gridDim.y > 1) {
    if (!arrives_last(&gate::arrivals<C::kMaxCounters>[blockIdx.x], gridDim.y)) return;
  } else {
    __syncthreads();
  }
  gate::gate_tile<C>(logits, bias, forced, w, ids, counts, first_token, T, true_T, scratch);
}

}  // namespace shunt
