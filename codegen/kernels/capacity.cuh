// What follows topk_gate in a gate with a capacity or a random second choice, in place on its raw
// scores w[T, kTop] and ids[T, kTop] (-1: no route, as padded tokens have):
//
//   sample_second   another second expert, by logit plus Gumbel noise
//   drop_routes     takes the id and the weight of the routes beyond an expert's capacity
//   finish_routes   normalises and scales what is left
//
// The one of them that decides last (kCounts) counts what is left of the routes to each expert.
//
// A route's number is token * kTop + choice. Routes take an expert's slots by key, the largest
// first, and equal keys by place: all first choices in token order, then all second ones; with more
// than two choices by route number.
#pragma once

#include "common/common.cuh"
#include "common/paged.cuh"
#include "common/random.cuh"
#include "common/route_counts.cuh"

namespace shunt {

namespace capacity {

enum Drop { kNone = 0, kOrder = 1, kScore = 2, kRandom = 3 };

/// Routes an expert may keep: computed in float32, as DeepSpeed does. Config: kExperts, kFactor
/// (capacity_factor * k), kMinCapacity.
template <class C>
__device__ __forceinline__ int slots(int tokens) {
  const float mean =
      static_cast<float>(static_cast<double>(tokens) / static_cast<double>(C::kExperts));
  const float wanted = ::ceilf(mean * C::kFactor);
  return ::max(static_cast<int>(::fminf(wanted, 1e9f)), C::kMinCapacity);
}

/// Sums a number over the block; `scratch` is free again after the next barrier.
template <int kThreads>
__device__ __forceinline__ int block_count(int x, int* scratch) {
  x = __reduce_add_sync(kFullWarp, x);
  if (lane_index() == 0) scratch[warp_index()] = x;
  __syncthreads();
  int total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) total += scratch[i];
  return total;
}

/// The routes of one expert, as one block sees them.
template <class C>
struct Routes {
  const float* w;
  const int* ids;
  int expert, tokens;
  int64 seed;

  __device__ __forceinline__ int count() const { return tokens * C::kTop; }
  /// The route at a place of the order.
  __device__ __forceinline__ int at(int place) const {
    return C::kTop <= 2 ? place % tokens * C::kTop + place / tokens : place;
  }
  __device__ __forceinline__ bool mine(int route) const { return ids[route] == expert; }
  __device__ __forceinline__ uint32 key(int route) const {
    if constexpr (C::kDrop == kScore) return ordered(w[route]);
    if constexpr (C::kDrop == kRandom) {
      return __float_as_uint(
          static_cast<float>(uniform_of_route(seed, route / C::kTop, expert)));
    }
    return 0;
  }
};

/// Routes with a larger key than `key` stay, and of those with this key the first `ties`.
struct Threshold {
  uint32 key;
  int ties;
};

/// Radix selection, eight bits at a time: the `wanted`-th largest key, of more than that many.
template <class C>
__device__ __forceinline__ Threshold find_threshold(const Routes<C>& routes, int wanted) {
  if (C::kDrop == kOrder || wanted == 0) return {wanted == 0 ? ~0u : 0u, wanted};
  __shared__ int histogram[256];
  __shared__ Threshold found;
  uint32 prefix = 0;
#pragma unroll 1
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += C::kThreads) histogram[i] = 0;
    __syncthreads();
    for (int r = threadIdx.x; r < routes.count(); r += C::kThreads) {
      if (!routes.mine(r)) continue;
      const uint32 key = routes.key(r);
      if (shift < 24 && (key ^ prefix) >> (shift + 8) != 0) continue;
      atomicAdd(&histogram[key >> shift & 255], 1);
    }
    __syncthreads();
    if (warp_index() == 0) {  // a lane has eight digits, lane 0 the largest
      const int top = 255 - 8 * lane_index();
      int sum = 0;
      for (int i = 0; i < 8; ++i) sum += histogram[top - i];
      int before = sum;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(kFullWarp, before, step);
        if (lane_index() >= step) before += other;
      }
      before -= sum;
      if (before < wanted && wanted <= before + sum) {
        int digit = top;
        while (before + histogram[digit] < wanted) before += histogram[digit--];
        found = {prefix | static_cast<uint32>(digit) << shift, wanted - before};
      }
    }
    __syncthreads();
    prefix = found.key;
    wanted = found.ties;
  }
  return {prefix, wanted};
}

}  // namespace capacity

/// One warp a token. Config: kExperts, kThreads, kHasForced, kCounts. A token whose choice is forced
/// keeps its second expert. `counts` may be null without kCounts.
template <class C>
__device__ __forceinline__ void sample_second(const float* logits, const int* forced, float* w,
                                              int* ids, int64* counts, int64 seed, int T,
                                              const int* true_T) {
  wait_for_predecessor();
  launch_dependents();
  const int token = blockIdx.x * (C::kThreads / 32) + warp_index();
  if (token >= true_size(true_T, T)) return;
  if constexpr (C::kHasForced) {
    if (forced[2 * token] >= 0) {
      if constexpr (C::kCounts) {
        const int id = lane_index() < 2 ? ids[2 * token + lane_index()] : -1;
        if (id >= 0) count_route(counts, id);
      }
      return;
    }
  }
  const int first = ids[2 * token];
  if (first < 0) return;
  const float* row = logits + static_cast<int64>(token) * C::kExperts;
  double best = 0;
  int best_id = -1;
  for (int e = lane_index(); e < C::kExperts; e += 32) {
    if (e == first) continue;
    const double noisy = row[e] - ::log(-::log(uniform_of_route(seed, token, e)));
    if (best_id < 0 || noisy > best) {
      best = noisy;
      best_id = e;
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(kFullWarp, best, step);
    const int other_id = __shfl_xor_sync(kFullWarp, best_id, step);
    const bool better = best_id < 0 || other > best || (other == best && other_id < best_id);
    if (other_id >= 0 && better) {
      best = other;
      best_id = other_id;
    }
  }
  if (lane_index() == 0) {
    w[2 * token + 1] = w[2 * token] * ::expf(row[best_id] - row[first]);
    ids[2 * token + 1] = best_id;
    if constexpr (C::kCounts) {
      count_route(counts, first);
      count_route(counts, best_id);
    }
  }
}

/// One block an expert. Blocks change routes of their own expert only, so that what others read
/// meanwhile is not theirs either way. Config: kExperts, kTop, kDrop, kFactor, kMinCapacity,
/// kThreads, kItems.
template <class C>
__device__ __forceinline__ void drop_routes(float* w, int* ids, int64* counts, int64 seed, int T,
                                            const int* true_T) {
  using namespace capacity;
  constexpr int kWarps = C::kThreads / 32;
  __shared__ int sums[kWarps], ties[2][kWarps];
  wait_for_predecessor();
  launch_dependents();
  const Routes<C> routes{w, ids, static_cast<int>(blockIdx.x), true_size(true_T, T), seed};
  int mine = 0;
  for (int r = threadIdx.x; r < routes.count(); r += C::kThreads) mine += routes.mine(r);
  const int kept = slots<C>(routes.tokens);
  mine = block_count<C::kThreads>(mine, sums);
  if (threadIdx.x == 0) counts[routes.expert] += ::min(mine, kept);  // no other block's
  if (mine <= kept) return;
  const Threshold threshold = find_threshold<C>(routes, kept);

  int before = 0;  // ties at earlier places
  int stage = 0;
  for (int base = 0; base < routes.count(); base += C::kThreads * C::kItems, stage ^= 1) {
    const int place = base + static_cast<int>(threadIdx.x) * C::kItems;
    uint32 tie_bits = 0, drop_bits = 0;
#pragma unroll
    for (int i = 0; i < C::kItems; ++i) {
      if (place + i >= routes.count()) continue;
      const int route = routes.at(place + i);
      if (!routes.mine(route)) continue;
      const uint32 key = routes.key(route);
      tie_bits |= static_cast<uint32>(key == threshold.key) << i;
      drop_bits |= static_cast<uint32>(key < threshold.key) << i;
    }
    const int own = __popc(tie_bits);
    int rank = own;  // ties of this warp up to this lane
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(kFullWarp, rank, step);
      if (lane_index() >= step) rank += other;
    }
    if (lane_index() == 31) ties[stage][warp_index()] = rank;
    __syncthreads();
    int total = 0;
    rank += before - own;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      if (i < warp_index()) rank += ties[stage][i];
      total += ties[stage][i];
    }
    before += total;
#pragma unroll
    for (int i = 0; i < C::kItems; ++i) {
      const bool tie = (tie_bits >> i & 1) != 0;
      const bool dropped = (drop_bits >> i & 1) != 0 || (tie && rank >= threshold.ties);
      rank += tie;
      if (!dropped) continue;
      const int route = routes.at(place + i);
      ids[route] = -1;
      w[route] = 0;
    }
  }
}

/// A thread a token. Config: kTop, kSum (divide by the sum of what is left), kNormEps, kNormMin,
/// kRouteScale, kThreads.
template <class C>
__device__ __forceinline__ void finish_routes(float* w, const int* ids, int T, const int* true_T) {
  wait_for_predecessor();
  launch_dependents();
  const int token = blockIdx.x * C::kThreads + threadIdx.x;
  if (token >= true_size(true_T, T)) return;
  float* row = w + static_cast<int64>(token) * C::kTop;
  const int* id = ids + static_cast<int64>(token) * C::kTop;
  float divide = 1;
  if constexpr (C::kSum) {
    float sum = 0;
    for (int j = 0; j < C::kTop; ++j) sum += id[j] < 0 ? 0.0f : row[j];
    divide = ::fmaxf(sum + C::kNormEps, C::kNormMin);
  }
  for (int j = 0; j < C::kTop; ++j) row[j] = id[j] < 0 ? 0.0f : row[j] / divide * C::kRouteScale;
}

}  // namespace shunt
