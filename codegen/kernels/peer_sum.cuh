// A sum over the ranks of a group through each other's memory, in lines that carry their epoch
// (ptx/peer.cuh): no fence and no barrier, so that a small sum takes little more than one trip over
// the link. Sums are in float32, in the order of the ranks, rounded once: the same bits on all
// ranks. Grids are any size up to kPeerEpochs blocks, all of which must be resident together.
//
// peer_sum: every rank pushes its x to all others, and sums what comes. (n - 1) sizes over the link.
// peer_sum_sliced: every rank sums its slice of the lines, and pushes the result to all others.
// Two trips, 2 (n - 1) / n sizes.
//
// Config: X (float, f16, bf16), kRanks (2 to kMaxPeers), kThreads.
#pragma once

#include "peer_lines.cuh"

namespace shunt {

namespace detail {

/// The `line`-th 8 bytes of x[count]; what lies behind its end is not read.
template <class X>
__device__ __forceinline__ uint2 load_line(const X* x, int64 line, int64 count) {
  constexpr int kElements = kLineElements<X>;
  const X* at = x + line * kElements;
  if ((line + 1) * kElements <= count) return *reinterpret_cast<const uint2*>(at);
  Vec<X, kElements> v = zero_vec<X, kElements>();
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    if (line * kElements + i < count) v[i] = at[i];
  }
  return *reinterpret_cast<const uint2*>(&v);
}

template <class X>
__device__ __forceinline__ void store_line(X* out, int64 line, int64 count, uint2 bits) {
  constexpr int kElements = kLineElements<X>;
  X* at = out + line * kElements;
  if ((line + 1) * kElements <= count) {
    *reinterpret_cast<uint2*>(at) = bits;
    return;
  }
  const auto& v = *reinterpret_cast<const Vec<X, kElements>*>(&bits);
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    if (line * kElements + i < count) at[i] = v[i];
  }
}

template <class X, int kRanks>
__device__ __forceinline__ uint2 sum_lines(const uint2 (&lines)[kRanks]) {
  constexpr int kElements = kLineElements<X>;
  Vec<float, kElements> sum = to_float(*reinterpret_cast<const Vec<X, kElements>*>(&lines[0]));
#pragma unroll
  for (int r = 1; r < kRanks; ++r) {
    const auto v = to_float(*reinterpret_cast<const Vec<X, kElements>*>(&lines[r]));
#pragma unroll
    for (int i = 0; i < kElements; ++i) sum[i] += v[i];
  }
  const Vec<X, kElements> rounded = from_float<X>(sum);
  return *reinterpret_cast<const uint2*>(&rounded);
}

/// The other ranks' copies of a line into `lines`, beside this rank's own. False: given up.
template <int kRanks>
__device__ __forceinline__ bool await_lines(const uint8* landing, int64 line, int me, uint32 epoch,
                                            uint2 (&lines)[kRanks], PeerPatience& patience) {
  while (true) {
    bool here = true;
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r == me) continue;
      here &= poll_line(landing + line_offset(line, r, kRanks, epoch), epoch, lines[r]);
    }
    if (here) return true;
    if (!patience.again()) return false;
  }
}

}  // namespace detail

/// out[count] = the sum over ranks of x[count]; in place if they are the same. `landing`: a buffer
/// of line_offset(lines rounded up to 32, 0, kRanks, 0) bytes on every rank; `epochs`: this
/// rank's counters.
template <class Config>
__device__ __forceinline__ void peer_sum(const typename Config::X* x, typename Config::X* out,
                                         int64 count, const PeerTable* landing, uint32* epochs) {
  using X = typename Config::X;
  constexpr int kRanks = Config::kRanks;
  const int64 lines = (count + kLineElements<X> - 1) / kLineElements<X>;
  const int64 first = static_cast<int64>(blockIdx.x) * Config::kThreads + threadIdx.x;
  const int64 stride = static_cast<int64>(gridDim.x) * Config::kThreads;
  PeerGuard* guard = landing->guard;
  const int me = landing->position;
  uint8* at[kRanks];
#pragma unroll
  for (int r = 0; r < kRanks; ++r) at[r] = landing->at[r];
  const uint8* own = landing->at[me];
  wait_for_predecessor();
  if (count == 0) return;
  const uint32 epoch = begin_epoch(epochs);
  if (peers_are_dead(guard)) return;
  for (int64 line = first; line < lines; line += stride) {
    const uint2 mine = detail::load_line(x, line, count);
    const int64 to = line_offset(line, me, kRanks, epoch);
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r != me) push_line(at[r] + to, mine, epoch);
    }
  }
  launch_dependents();
  PeerPatience patience(guard);
  for (int64 line = first; line < lines; line += stride) {
    uint2 all[kRanks];
    const uint2 mine = detail::load_line(x, line, count);
#pragma unroll
    for (int r = 0; r < kRanks; ++r) all[r] = mine;
    if (!detail::await_lines(own, line, me, epoch, all, patience)) break;
    detail::store_line(out, line, count, detail::sum_lines<X>(all));
  }
  clear_stale(landing, kRanks, epoch, [&](int64 line, int) { return line < lines; });
  end_epoch(epochs, epoch);
}

/// The same with slices. `parts` has line_offset(slice, 0, kRanks, 0) bytes, where slice = lines /
/// kRanks rounded up to 32, and `sums` line_offset(kRanks * slice, 0, 1, 0).
template <class Config>
__device__ __forceinline__ void peer_sum_sliced(const typename Config::X* x,
                                                typename Config::X* out, int64 count,
                                                const PeerTable* parts, const PeerTable* sums,
                                                uint32* epochs) {
  using X = typename Config::X;
  constexpr int kRanks = Config::kRanks;
  const int64 lines = (count + kLineElements<X> - 1) / kLineElements<X>;
  const int64 slice = slice_lines(lines, kRanks);
  const auto length = [&](int owner) { return slice_length(lines, slice, owner); };
  const int64 first = static_cast<int64>(blockIdx.x) * Config::kThreads + threadIdx.x;
  const int64 stride = static_cast<int64>(gridDim.x) * Config::kThreads;
  PeerGuard* guard = parts->guard;
  const int me = parts->position;
  uint8* part_at[kRanks];
  uint8* sum_at[kRanks];
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    part_at[r] = parts->at[r];
    sum_at[r] = sums->at[r];
  }
  const uint8* own_parts = parts->at[me];
  const uint8* own_sums = sums->at[me];
  wait_for_predecessor();
  if (count == 0) return;
  const uint32 epoch = begin_epoch(epochs);
  if (peers_are_dead(guard)) return;
  // Every line to the rank that sums it.
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    if (r == me) continue;
    for (int64 i = first; i < length(r); i += stride) {
      push_line(part_at[r] + line_offset(i, me, kRanks, epoch),
                detail::load_line(x, r * slice + i, count), epoch);
    }
  }
  launch_dependents();
  PeerPatience patience(guard);
  bool alive = true;
  for (int64 i = first; alive && i < length(me); i += stride) {
    const int64 line = me * slice + i;
    uint2 all[kRanks];
    const uint2 mine = detail::load_line(x, line, count);
#pragma unroll
    for (int r = 0; r < kRanks; ++r) all[r] = mine;
    alive = detail::await_lines(own_parts, i, me, epoch, all, patience);
    if (!alive) break;
    const uint2 sum = detail::sum_lines<X>(all);
    const int64 to = line_offset(line, 0, 1, epoch);
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r != me) push_line(sum_at[r] + to, sum, epoch);
    }
    detail::store_line(out, line, count, sum);
  }
  // The sums of the others' slices.
  for (int r = 0; alive && r < kRanks; ++r) {
    if (r == me) continue;
    for (int64 i = first; alive && i < length(r); i += stride) {
      const int64 line = r * slice + i;
      uint2 sum;
      alive = await_line(own_sums + line_offset(line, 0, 1, epoch), epoch, sum, patience);
      if (alive) detail::store_line(out, line, count, sum);
    }
  }
  clear_stale(parts, kRanks, epoch, [&](int64 line, int) { return line < length(me); });
  clear_stale(sums, 1, epoch, [&](int64 line, int) { return line < lines && line / slice != me; });
  end_epoch(epochs, epoch);
}

}  // namespace shunt
