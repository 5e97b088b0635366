// route_sort and combine_routes.
//
// route_sort is a counting sort that keeps the order of routes and does not depend on timing:
// routes are cut into contiguous chunks, one a warp; a warp counts its chunk's routes an expert,
// offsets follow from sums over warps in order, and the warp goes through its chunk again, giving
// each route the next place of its expert. In one block for few routes; else three kernels, where a
// block counts, one block sums, and blocks place.
//
// Ids outside [0, kExperts) are dropped routes and appear nowhere.
//
// Config: kExperts, kThreads, kWarps (kThreads / 32, as many as shared memory allows).
#pragma once

#include "common/common.cuh"
#include "common/route_slot.cuh"

namespace shunt {

namespace route {

struct Range {
  int begin, end;
};

/// Part `index` of [begin, end) cut into `parts` of whole 32s.
__device__ __forceinline__ Range part_of(Range all, int index, int parts) {
  const int each = round_up(ceil_div(::max(all.end - all.begin, 0), parts), 32);
  const int begin = ::min(all.begin + index * each, all.end);
  return {begin, ::min(begin + each, all.end)};
}

/// Calls f(route, expert, rank, size, leads) for 32 routes at a time, all lanes together: `rank` is
/// the number of earlier routes among the 32 with the same expert, `size` of all of them, and
/// `leads` is true in the first one. Expert is -1 for a dropped route and beyond the end.
template <class C, class F>
__device__ __forceinline__ void for_routes(const int* ids, Range range, F&& f) {
  constexpr int kAhead = 4;  // loads in flight
  const int lane = lane_index();
  for (int base = range.begin; base < range.end; base += 32 * kAhead) {
    int expert[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int r = base + i * 32 + lane;
      expert[i] = r < range.end ? ids[r] : -1;
      if (expert[i] >= C::kExperts) expert[i] = -1;
      expert[i] = ::max(expert[i], -1);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const unsigned int same = __match_any_sync(kFullWarp, expert[i]);
      const unsigned int earlier = same & ((1u << lane) - 1);
      f(base + i * 32 + lane, expert[i], __popc(earlier), __popc(same), earlier == 0);
      __syncwarp();  // the next 32 meet the same counters from other lanes
    }
  }
}

/// counts[e] += the range's routes of e, by one warp.
template <class C>
__device__ __forceinline__ void count_routes(const int* ids, Range range, int* counts) {
  for_routes<C>(ids, range, [&](int, int expert, int, int size, bool leads) {
    if (expert >= 0 && leads) counts[expert] += size;
  });
}

/// Writes each route of the range to the next place of its expert; next[e] is where that is.
template <class C>
__device__ __forceinline__ void place_routes(const int* ids, Range range, int* next, int* rows) {
  for_routes<C>(ids, range, [&](int route, int expert, int rank, int size, bool leads) {
    int at = 0;
    if (expert >= 0) at = next[expert];
    __syncwarp();
    if (expert >= 0) rows[at + rank] = route;
    if (expert >= 0 && leads) next[expert] = at + size;
  });
}

/// counts[kWarps][kExperts] of the block's part become, a warp and expert, the number of routes in
/// warps before; the block's totals go to totals[kExperts]. A barrier before and after.
template <class C>
__device__ __forceinline__ void sum_warps(int (*counts)[C::kExperts], int* totals) {
  __syncthreads();
  for (int e = threadIdx.x; e < C::kExperts; e += C::kThreads) {
    int before = 0;
#pragma unroll 8
    for (int w = 0; w < C::kWarps; ++w) {
      const int count = counts[w][e];
      counts[w][e] = before;
      before += count;
    }
    totals[e] = before;
  }
  __syncthreads();
}

/// values[e] becomes the sum of values[0..e); returns the sum of all. By one warp.
template <class C>
__device__ __forceinline__ int exclusive_sum(int* values) {
  const int lane = lane_index();
  int carry = 0;
  for (int base = 0; base < C::kExperts; base += 32) {
    const int value = base + lane < C::kExperts ? values[base + lane] : 0;
    int upto = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(kFullWarp, upto, step);
      if (lane >= step) upto += other;
    }
    if (base + lane < C::kExperts) values[base + lane] = carry + upto - value;
    carry += __shfl_sync(kFullWarp, upto, 31);
  }
  return carry;
}

template <class C>
struct Smem {
  int counts[C::kWarps][C::kExperts];
  int totals[C::kExperts];
};

template <class C>
__device__ __forceinline__ void clear(Smem<C>& smem) {
  for (int i = threadIdx.x; i < C::kWarps * C::kExperts; i += C::kThreads) {
    smem.counts[i / C::kExperts][i % C::kExperts] = 0;
  }
  __syncthreads();
}

}  // namespace route

/// offsets[kExperts + 1], rows[offsets[kExperts]] from ids[routes], in one block.
template <class C>
__device__ __forceinline__ void route_sort(const int* ids, int* offsets, int* rows, int routes) {
  using namespace route;
  __shared__ Smem<C> smem;
  clear<C>(smem);
  wait_for_predecessor();
  launch_dependents();
  const Range range = part_of({0, routes}, warp_index(), C::kWarps);
  count_routes<C>(ids, range, smem.counts[warp_index()]);
  sum_warps<C>(smem.counts, smem.totals);
  if (warp_index() == 0) {
    const int total = exclusive_sum<C>(smem.totals);
    if (lane_index() == 0) offsets[C::kExperts] = total;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < C::kWarps * C::kExperts; i += C::kThreads) {
    const int e = i % C::kExperts;
    smem.counts[i / C::kExperts][e] += smem.totals[e];
    if (i < C::kExperts) offsets[e] = smem.totals[e];
  }
  __syncthreads();
  place_routes<C>(ids, range, smem.counts[warp_index()], rows);
}

/// counts[gridDim.x, kExperts]: the routes an expert in each block's part.
template <class C>
__device__ __forceinline__ void route_count(const int* ids, int* counts, int routes) {
  using namespace route;
  __shared__ Smem<C> smem;
  clear<C>(smem);
  wait_for_predecessor();
  launch_dependents();
  const Range mine = part_of({0, routes}, blockIdx.x, gridDim.x);
  count_routes<C>(ids, part_of(mine, warp_index(), C::kWarps), smem.counts[warp_index()]);
  sum_warps<C>(smem.counts, smem.totals);
  for (int e = threadIdx.x; e < C::kExperts; e += C::kThreads) {
    counts[blockIdx.x * C::kExperts + e] = smem.totals[e];
  }
}

/// counts become the places where each block's routes of an expert begin; offsets as in route_sort.
/// One block.
template <class C>
__device__ __forceinline__ void route_scan(int* counts, int* offsets, int blocks) {
  using namespace route;
  __shared__ int totals[C::kExperts];
  wait_for_predecessor();
  launch_dependents();
  for (int e = threadIdx.x; e < C::kExperts; e += C::kThreads) {
    int before = 0;
#pragma unroll 8
    for (int b = 0; b < blocks; ++b) {
      const int count = counts[b * C::kExperts + e];
      counts[b * C::kExperts + e] = before;
      before += count;
    }
    totals[e] = before;
  }
  __syncthreads();
  if (warp_index() == 0) {
    const int total = exclusive_sum<C>(totals);
    if (lane_index() == 0) offsets[C::kExperts] = total;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < C::kExperts; e += C::kThreads) offsets[e] = totals[e];
  for (int i = threadIdx.x; i < blocks * C::kExperts; i += C::kThreads)
    counts[i] += totals[i % C::kExperts];
}

/// rows from ids and the places of route_scan; the grid of route_count.
template <class C>
__device__ __forceinline__ void route_place(const int* ids, const int* places, int* rows,
                                            int routes) {
  using namespace route;
  __shared__ Smem<C> smem;
  clear<C>(smem);
  wait_for_predecessor();
  launch_dependents();
  const Range mine = part_of({0, routes}, blockIdx.x, gridDim.x);
  const Range range = part_of(mine, warp_index(), C::kWarps);
  count_routes<C>(ids, range, smem.counts[warp_index()]);
  sum_warps<C>(smem.counts, smem.totals);
  for (int i = threadIdx.x; i < C::kWarps * C::kExperts; i += C::kThreads) {
    smem.counts[i / C::kExperts][i % C::kExperts] +=
        places[blockIdx.x * C::kExperts + i % C::kExperts];
  }
  __syncthreads();
  place_routes<C>(ids, range, smem.counts[warp_index()], rows);
}

/// out[T, kCols] = sum over j in order of w[t, j] * y[t * kTop + j] (+ residual); routes with id -1
/// add nothing. blockIdx.x is the token. Config: Y, Residual, Out, kTop, kCols, kVec, kThreads,
/// kHasResidual.
template <class C>
__device__ __forceinline__ void combine_routes(const typename C::Y* y, const float* w,
                                               const int* ids, const typename C::Residual* residual,
                                               typename C::Out* out) {
  constexpr int kAhead = C::kTop < 8 ? C::kTop : 8;  // rows in flight
  wait_for_predecessor();
  launch_dependents();
  const int col = (blockIdx.y * C::kThreads + threadIdx.x) * C::kVec;
  if (col >= C::kCols) return;
  const int64 first = static_cast<int64>(blockIdx.x) * C::kTop;
  Vec<float, C::kVec> sum = zero_vec<float, C::kVec>();
  for (int base = 0; base < C::kTop; base += kAhead) {
    Vec<typename C::Y, C::kVec> rows[kAhead];
    float weight[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const bool used = base + j < C::kTop && ids[first + ::min(base + j, C::kTop - 1)] >= 0;
      weight[j] = used ? w[first + base + j] : 0.0f;
      rows[j] =
          zero_vec<typename C::Y, C::kVec>();  // what was never written must not reach the sum
      if (used) rows[j] = load<C::kVec>(y + (first + base + j) * C::kCols + col);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
#pragma unroll
      for (int i = 0; i < C::kVec; ++i) sum[i] += weight[j] * to_float(rows[j][i]);
    }
  }
  const int64 at = static_cast<int64>(blockIdx.x) * C::kCols + col;
  if constexpr (C::kHasResidual) {
    const Vec<float, C::kVec> r = to_float(load<C::kVec>(residual + at));
#pragma unroll
    for (int i = 0; i < C::kVec; ++i) sum[i] += r[i];
  }
  store(out + at, from_float<typename C::Out>(sum));
}

/// out[r] = the slot of route r's expert if this rank (position `mine` along ep) takes it, else -1
/// (route_slot). Config: kTop, kReplicas, kThreads.
template <class C>
__device__ __forceinline__ void local_routes(const int* ids, const float* table, int* out,
                                             int routes, int mine) {
  wait_for_predecessor();
  launch_dependents();
  const int r = blockIdx.x * C::kThreads + threadIdx.x;
  if (r >= routes) return;
  out[r] = route_slot<C::kReplicas>(ids[r], static_cast<uint32>(r / C::kTop), mine, table);
}

}  // namespace shunt
