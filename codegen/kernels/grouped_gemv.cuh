// routed_linear for few routes of which many share an expert or are another rank's: every block
// makes the same list of groups, up to kRows routes of one expert each, and takes an equal part of
// all the groups' tiles. So weights are read once a group, at the same speed however many routes
// are left, and no block waits for routes that are not there.
//
// A route's result depends on its x and its expert alone: on no other route, nor on the grid.
//
// Config: that of gemv.cuh; kExperts, kMaxRoutes, kRoutesPerRow, kListBytes; kEarlyIds: the ids are
// older than the predecessor, so that its end is not waited for before the first weights are read.
#pragma once

#include "gemv.cuh"

namespace shunt {

/// The groups of a launch's routes, in shared memory behind what Gemv has there.
template <class Config>
struct RouteGroups {
  static constexpr int kMaxRoutes = Config::kMaxRoutes;

  int count;               // of groups
  int first[kMaxRoutes];   // a group's first route
  int expert[kMaxRoutes];  // by route; -1 for one that is not ours
  int next[kMaxRoutes];    // by route: the next of the same expert, or -1
  int seen[Config::kExperts], last[Config::kExperts];  // routes so far, and the last of them

  /// Route `r` of a group, or -1 if it has fewer.
  __device__ __forceinline__ int route(int group, int r) const {
    int at = first[group];
    for (int i = 0; i < r && at >= 0; ++i) at = next[at];
    return at;
  }

  /// Before the ids are there.
  __device__ __forceinline__ void clear() {
    for (int e = threadIdx.x; e < Config::kExperts; e += blockDim.x) seen[e] = 0;
  }

  /// By the whole block; the list is complete for all of it at the end.
  __device__ __forceinline__ void find(const int* ids, int routes) {
    for (int r = threadIdx.x; r < routes; r += blockDim.x) {
      const int id = Config::kEarlyIds ? load_early(ids + r) : ids[r];
      expert[r] = id < Config::kExperts ? ::max(id, -1) : -1;
    }
    __syncthreads();
    if (warp_index() == 0) link(routes);
    __syncthreads();
  }

 private:
  /// By one warp, 32 routes at a time in order, so that every block finds the same groups.
  __device__ __forceinline__ void link(int routes) {
    const int lane = lane_index();
    int groups = 0;
    for (int base = 0; base < routes; base += 32) {
      const int r = base + lane;
      const int e = r < routes ? expert[r] : -1;
      const unsigned int same = __match_any_sync(kFullWarp, e);
      const unsigned int earlier = same & ((1u << lane) - 1);
      const unsigned int later = same & ~earlier & ~(1u << lane);
      const int before = e >= 0 ? seen[e] : 0;
      const int rank = before + __popc(earlier);
      const bool leads = e >= 0 && rank % Config::kRows == 0;
      const unsigned int leaders = __ballot_sync(kFullWarp, leads);
      if (leads) first[groups + __popc(leaders & ((1u << lane) - 1))] = r;
      groups += __popc(leaders);
      if (e >= 0) {
        next[r] = later != 0 ? base + __ffs(static_cast<int>(later)) - 1 : -1;
        if (earlier == 0 && before > 0) next[last[e]] = r;
      }
      __syncwarp();
      if (e >= 0 && later == 0) {
        seen[e] = rank + 1;
        last[e] = r;
      }
      __syncwarp();
    }
    if (lane == 0) count = groups;
  }
};

/// The rows of one group, as Gemv takes them.
template <class Config>
struct GroupRows {
  static_assert(32 % Config::kRows == 0);  // a lane of Gemv::write always has the same row
  const RouteGroups<Config>* groups;
  const typename Config::X* x;
  typename Config::Out* out;
  int group, expert;
  int count;       // of its routes
  int lane_route;  // route lane % kRows, or -1

  __device__ __forceinline__ GroupRows(const RouteGroups<Config>& list, int index,
                                       const typename Config::X* all_x,
                                       typename Config::Out* all_out)
      : groups(&list), x(all_x), out(all_out), group(index) {
    expert = list.expert[list.first[index]];
    lane_route = list.route(index, lane_index() % Config::kRows);
    count = __popc(__ballot_sync(kFullWarp, lane_index() < Config::kRows && lane_route >= 0));
  }

  __device__ __forceinline__ const typename Config::X* source(int r) const {
    const int row = groups->route(group, r) / Config::kRoutesPerRow;
    return x + static_cast<int64>(row) * Config::kDepth;
  }
  __device__ __forceinline__ typename Config::Out* target(int) const {
    return out + static_cast<int64>(lane_route) * Config::kOutColumns;
  }
  __device__ __forceinline__ int epilogue_row(int) const { return expert; }
};

/// out[r] = x[r / kRoutesPerRow] . w[ids[r]]^T; a route whose id is -1 keeps its row of `out` as it
/// was. The epilogue's row is the expert. Grid: any number of blocks.
template <class Config, class... Extra>
__device__ __forceinline__ void grouped_gemv(const typename Config::X* x,
                                             const typename Config::W* w, const int* ids,
                                             typename Config::Out* out, int routes,
                                             Extra... extra) {
  using Product = Gemv<Config>;
  using Groups = RouteGroups<Config>;
  constexpr int kTiles = Product::kTiles, kBuffers = Config::kXBuffers;
  constexpr int64 kExpertSize =
      static_cast<int64>(Product::kParts) * Config::kOutColumns * Config::kDepth;
  static_assert(Config::kListBytes == sizeof(Groups), "the emitter counts as this header does");
  Groups& groups = *reinterpret_cast<Groups*>(dynamic_smem<uint8>() + Product::kSmemBytes);
  groups.clear();
  if constexpr (!Config::kEarlyIds) {
    wait_for_predecessor();
    launch_dependents();
  }
  groups.find(ids, routes);

  // Items are the tiles of group 0, then of group 1, ...; this block has [item, end).
  const int64 items = static_cast<int64>(groups.count) * kTiles;
  int64 item = items * blockIdx.x / gridDim.x;
  const int64 end = items * (blockIdx.x + 1) / gridDim.x;
  if (item == end) {
    if constexpr (Config::kEarlyIds) wait_for_predecessor();
    return;
  }
  const int last_group = static_cast<int>((end - 1) / kTiles);
  int group = static_cast<int>(item / kTiles), tile = static_cast<int>(item % kTiles);
  GroupRows<Config> rows(groups, group, x, out);
  Product product(w + rows.expert * kExpertSize);
  typename Product::Piece next;
  product.read(next, tile, 0);
  if constexpr (Config::kEarlyIds) {
    wait_for_predecessor();
    launch_dependents();
  }
  int turn = 0;
  while (true) {  // as many groups as there are buffers of x
    const int staged = ::min(kBuffers, last_group + 1 - group);
    for (int i = 0; i < staged; ++i) {
      const GroupRows<Config> ahead(groups, group + i, x, out);
      Product::stage_rows(ahead, Product::x_buffer(i));
    }
    __syncthreads();
    for (int buffer = 0; buffer < staged; ++buffer) {
      for (; tile < kTiles && item < end; ++item, ++tile, turn ^= 1) {
        const auto read_on = [&] {
          if (item + 1 == end) return;
          if (tile + 1 < kTiles) return product.read(next, tile + 1, 0);
          const int expert = groups.expert[groups.first[group + 1]];
          product.w = w + expert * kExpertSize;
          product.read(next, 0, 0);
        };
        product.multiply_tile(next, tile, turn, Product::x_buffer(buffer), rows, rows.count,
                              read_on, extra...);
      }
      if (item == end) return;
      tile = 0;
      rows = GroupRows<Config>(groups, ++group, x, out);
    }
    __syncthreads();  // everyone is done with the buffers
  }
}

}  // namespace shunt
