// norm_gate for few tokens. The norm's scale is a factor of a token's logits, so it may come last:
// one pass over the columns gives the squares and the products with the router's rows, and all of
// them are summed over the block at once.
#pragma once

#include "gate.cuh"

namespace shunt {

/// blockIdx.x is a tile of kTokens tokens, blockIdx.y a run of kRows experts. A thread has the same
/// columns of all of them. The block that is last for a tile picks its experts; the blocks of a
/// tile share the writing of sum and normed. With kHold the router's rows and the norm's weight are
/// read before the predecessor has ended. Config: as of norm_gate, without its cut; kTokens, kRows
/// (kTokens * kRows is a power of two, at most 32), kThreads, kHold.
template <class C>
__device__ __forceinline__ void norm_gate_few(const typename C::X* x, const typename C::Y* y,
                                              const typename C::W* weight,
                                              const typename C::Router* router,
                                              const typename C::RouterBias* router_bias,
                                              const typename C::SelectionBias* bias,
                                              const int* forced, typename C::X* sum,
                                              typename C::X* normed, float* logits, float* w,
                                              int* ids, int64* counts, int T, const int* true_T) {
  constexpr int kWarps = C::kThreads / 32;
  constexpr int kVectors = C::kCols / C::kVec;
  constexpr int kSteps = ceil_div(kVectors, C::kThreads);
  constexpr int kValues = C::kRows * C::kTokens;
  using RouterVec = Vec<typename C::Router, C::kVec>;
  using WeightVec = Vec<typename C::W, C::kVec>;
  using Floats = Vec<float, C::kVec>;
  __shared__ gate::GroupScratch<C> scratch[kWarps];
  __shared__ float partial[kWarps][kValues + C::kTokens];
  const int first_token = blockIdx.x * C::kTokens;
  const int first_row = blockIdx.y * C::kRows;

  const auto router_vector = [&](int r, int vector) {
    const int row = ::min(first_row + r, C::kExperts - 1);
    return load_stream<C::kVec>(router + static_cast<int64>(row) * C::kCols + vector * C::kVec);
  };
  const auto vector_of = [&](int step) {
    return ::min(step * C::kThreads + static_cast<int>(threadIdx.x), kVectors - 1);
  };
  RouterVec held[C::kHold ? kSteps : 1][C::kRows];
  WeightVec held_weight[C::kHold ? kSteps : 1];
  if constexpr (C::kHold) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      held_weight[step] = load<C::kVec>(weight + vector_of(step) * C::kVec);
#pragma unroll
      for (int r = 0; r < C::kRows; ++r) held[step][r] = router_vector(r, vector_of(step));
    }
  }
  wait_for_predecessor();
  launch_dependents();

  const auto row_of = [&](int t) {  // a token past the end repeats the last one
    return static_cast<int64>(::min(first_token + t, T - 1)) * C::kCols;
  };
  const auto input = [&](int64 row, int vector) {
    Floats v = to_float(load<C::kVec>(x + row + vector * C::kVec));
    if constexpr (C::kHasY) {
      const Floats other = to_float(load<C::kVec>(y + row + vector * C::kVec));
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) v[j] += other[j];
    }
    return v;
  };
  const auto gain_of = [](const WeightVec& weights) {
    Floats gain = to_float(weights);
    if constexpr (C::kPlusOne) {
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) gain[j] += 1.0f;
    }
    return gain;
  };

  float dots[kValues] = {}, squares[C::kTokens] = {};  // dots[r * kTokens + t]
#pragma unroll(C::kHold ? kSteps : 1)
  for (int step = 0; step < kSteps; ++step) {
    if (step * C::kThreads + static_cast<int>(threadIdx.x) >= kVectors) break;
    const int vector = vector_of(step);
    Floats rows[C::kRows], gain;
    if constexpr (C::kHold) {
      gain = gain_of(held_weight[step]);
    } else {
      gain = gain_of(load<C::kVec>(weight + vector * C::kVec));
    }
#pragma unroll
    for (int r = 0; r < C::kRows; ++r) {
      if constexpr (C::kHold) {
        rows[r] = to_float(held[step][r]);
      } else {
        rows[r] = to_float(router_vector(r, vector));
      }
    }
#pragma unroll
    for (int t = 0; t < C::kTokens; ++t) {
      const Floats v = input(row_of(t), vector);
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) {
        squares[t] += v[j] * v[j];
        const float scaled = v[j] * gain[j];
#pragma unroll
        for (int r = 0; r < C::kRows; ++r) dots[r * C::kTokens + t] += rows[r][j] * scaled;
      }
    }
  }

  const int lane = lane_index();
  constexpr int kDotLanes = 32 / kValues, kSquareLanes = 32 / C::kTokens;
  const float dot = warp_sum_each<kValues>(dots);
  const float square = warp_sum_each<C::kTokens>(squares);
  if (lane % kDotLanes == 0) partial[warp_index()][lane / kDotLanes] = dot;
  if (lane % kSquareLanes == 0) partial[warp_index()][kValues + lane / kSquareLanes] = square;
  __syncthreads();
  const auto total = [&](int value) {
    float all = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) all += partial[i][value];
    return all;
  };
  const auto scale_of = [&](int t) {
    return 1.0f / ::sqrtf(total(kValues + t) / C::kCols + C::kEps);
  };
  if (threadIdx.x < kValues) {
    const int row = first_row + static_cast<int>(threadIdx.x) / C::kTokens;
    const int t = static_cast<int>(threadIdx.x) % C::kTokens;
    if (row < C::kExperts && first_token + t < T) {
      float logit = total(static_cast<int>(threadIdx.x)) * scale_of(t);
      if constexpr (C::kHasRouterBias) logit += to_float(router_bias[row]);
      logits[static_cast<int64>(first_token + t) * C::kExperts + row] = logit;
    }
  }

  bool picks = true;
  if (gridDim.y > 1) {
    picks = arrives_last(&gate::arrivals<C::kMaxCounters>[blockIdx.x], gridDim.y);
  } else {
    __syncthreads();
  }
  if (picks)
    gate::gate_tile<C>(logits, bias, forced, w, ids, counts, first_token, T, true_T, scratch);
  for (int t = blockIdx.y; t < C::kTokens && first_token + t < T; t += gridDim.y) {
    const float scale = scale_of(t);
#pragma unroll 1
    for (int vector = threadIdx.x; vector < kVectors; vector += C::kThreads) {
      Floats v = input(row_of(t), vector);
      const Floats gain = gain_of(load<C::kVec>(weight + vector * C::kVec));
      store(sum + row_of(t) + vector * C::kVec, from_float<typename C::X>(v));
#pragma unroll
      for (int j = 0; j < C::kVec; ++j) v[j] = v[j] * scale * gain[j];
      store(normed + row_of(t) + vector * C::kVec, from_float<typename C::X>(v));
    }
  }
}

}  // namespace shunt
