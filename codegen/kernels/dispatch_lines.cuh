// dispatch and combine over peer memory for few tokens: each is one kernel, in which a rank pushes
// to all others and takes what they push, in lines that carry their epoch (ptx/peer.cuh): one trip
// over the link, no fence and no flag. Twice the bytes of dispatch_peer.cuh.
//
// A message of dispatch is kRowLines lines of a token's row, then kTop lines of a route each: slot
// of the receiver's expert (or -1) and weight. One of combine is kRowLines lines. Beside them every
// member sends every member a line of mail, how many messages there are; so a launch waits for all
// ranks, and two halves of memory suffice. Grids are any size up to kPeerEpochs blocks, all of
// which must be resident together.
//
// Config: as in dispatch.cuh; a row has a multiple of 8 bytes, and kRowLines of them. kMaxTokens.
#pragma once

#include "common/paged.cuh"
#include "dispatch.cuh"
#include "peer_lines.cuh"

namespace shunt {

namespace detail {

/// Bit p of members[t]: whether token t goes to member p. By all threads of the block.
template <class C>
__device__ __forceinline__ void find_members(const int* ids, const float* table, uint32* members,
                                             int tokens, int valid, int base) {
  for (int t = threadIdx.x; t < tokens; t += C::kThreads) members[t] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < valid * C::kTop; i += C::kThreads) {
    const int t = i / C::kTop, id = ids[i];
    uint32 bits = 0;
#pragma unroll
    for (int p = 0; p < C::kRanks; ++p) {
      if (route_slot<C::kReplicas>(id, t, ep_of_member<C>(p, base), table) >= 0) bits |= 1u << p;
    }
    if (bits != 0) atomicOr(&members[t], bits);
  }
  __syncthreads();
}

/// Of tokens [0, end): how many go to member p. By a warp.
__device__ __forceinline__ int count_before(const uint32* members, int p, int end) {
  int count = 0;
  for (int t = lane_index(); t < end; t += 32) count += members[t] >> p & 1u;
  return warp_sum(count);
}

/// Sends a line of mail to every member: mail_of(p). By one block.
template <class C, class Mail>
__device__ __forceinline__ void push_mail(const PeerTable* mail, uint32 epoch, Mail&& mail_of) {
  const int p = threadIdx.x;
  if (p >= C::kRanks) return;
  push_line(mail->at[p] + line_offset(0, mail->position, C::kRanks, epoch),
            make_uint2(mail_of(p), 0), epoch);
}

/// counts[p] = the mail of member p; 0 if it will not come. By all threads of the block.
template <class C>
__device__ __forceinline__ void await_line_mail(const PeerTable* mail, uint32 epoch, int* counts) {
  const int p = threadIdx.x;
  if (p < C::kRanks) {
    PeerPatience patience(mail->guard);
    uint2 line = make_uint2(0, 0);
    const bool here = await_line(mail->at[mail->position] + line_offset(0, p, C::kRanks, epoch),
                                 epoch, line, patience);
    counts[p] = here ? static_cast<int>(line.x) : 0;
  }
  __syncthreads();
}

}  // namespace detail

/// Tokens to the members whose experts they take; what comes, to rows, ids and weights as
/// dispatch_unpack. places: as of dispatch_places. received[p] = how many messages p sent.
template <class C>
__device__ __forceinline__ void dispatch_lines(const typename C::X* x, const int* ids,
                                               const float* w, const float* table,
                                               const PeerTable* landing, const PeerTable* mail,
                                               uint32* epochs, typename C::X* x_out, int* ids_out,
                                               float* w_out, int* places, int* received, int tokens,
                                               const int* true_tokens, int base) {
  constexpr int kLines = C::kRowLines + C::kTop;
  __shared__ uint32 members[C::kMaxTokens];
  __shared__ int place[C::kRanks], counts[C::kRanks];
  wait_for_predecessor();
  if (peers_are_dead(landing->guard)) return;
  const uint32 epoch = begin_epoch(epochs);
  detail::find_members<C>(ids, table, members, tokens, true_size(true_tokens, tokens), base);
  for (int t = blockIdx.x; t < tokens; t += gridDim.x) {
    for (int p = warp_index(); p < C::kRanks; p += C::kThreads / 32) {
      const int before = detail::count_before(members, p, t);
      if (lane_index() == 0) place[p] = (members[t] >> p & 1u) != 0 ? before : -1;
    }
    __syncthreads();
    if (threadIdx.x < C::kRanks) places[t * C::kRanks + threadIdx.x] = place[threadIdx.x];
    const auto* row = reinterpret_cast<const uint2*>(x + static_cast<int64>(t) * C::kCols);
    for (int i = 0; i < C::kRanks; ++i) {
      const int p = (landing->position + 1 + i) % C::kRanks;  // not all ranks to the same one
      if (place[p] < 0) continue;
      const int64 first = static_cast<int64>(place[p]) * kLines;
      for (int j = threadIdx.x; j < kLines; j += C::kThreads) {
        uint2 payload;
        if (j < C::kRowLines) {
          payload = row[j];
        } else {
          const int route = t * C::kTop + j - C::kRowLines;
          const int slot =
              route_slot<C::kReplicas>(ids[route], t, detail::ep_of_member<C>(p, base), table);
          payload = make_uint2(static_cast<uint32>(slot), __float_as_uint(w[route]));
        }
        push_line(landing->at[p] + line_offset(first + j, landing->position, C::kRanks, epoch),
                  payload, epoch);
      }
    }
    __syncthreads();  // place is read
  }
  if (blockIdx.x == 0) {
    for (int p = warp_index(); p < C::kRanks; p += C::kThreads / 32) {
      const int all = detail::count_before(members, p, tokens);
      if (lane_index() == 0) place[p] = all;
    }
    __syncthreads();
    detail::push_mail<C>(mail, epoch, [&](int p) { return static_cast<uint32>(place[p]); });
  }
  launch_dependents();

  detail::await_line_mail<C>(mail, epoch, counts);
  PeerPatience patience(landing->guard);
  const uint8* own = landing->at[landing->position];
  for (int r = blockIdx.x; r < C::kRanks * tokens; r += gridDim.x) {
    const int p = r / tokens, i = r - p * tokens;
    const bool sent = i < counts[p];
    auto* row = reinterpret_cast<uint2*>(x_out + static_cast<int64>(r) * C::kCols);
    for (int j = sent ? threadIdx.x : C::kRowLines + threadIdx.x; j < kLines; j += C::kThreads) {
      uint2 payload = make_uint2(static_cast<uint32>(-1), 0);
      if (sent) {
        const int64 line = static_cast<int64>(i) * kLines + j;
        if (!await_line(own + line_offset(line, p, C::kRanks, epoch), epoch, payload, patience))
          break;
      }
      if (j < C::kRowLines) {
        row[j] = payload;
      } else {
        const int64 route = static_cast<int64>(r) * C::kTop + j - C::kRowLines;
        ids_out[route] = static_cast<int>(payload.x);
        w_out[route] = __uint_as_float(payload.y);
      }
    }
  }
  if (blockIdx.x == 0 && threadIdx.x < C::kRanks) received[threadIdx.x] = counts[threadIdx.x];
  clear_stale(landing, C::kRanks, epoch,
              [&](int64 line, int p) { return line < static_cast<int64>(counts[p]) * kLines; });
  end_epoch(epochs, epoch);
}

/// Sends y[p, i] for i < received[p] to member p; out[t] = the sum over p of what comes for
/// places[t, p], in the order of p.
template <class C>
__device__ __forceinline__ void combine_lines(const typename C::X* y, const int* received,
                                              const int* places, const PeerTable* landing,
                                              const PeerTable* mail, uint32* epochs,
                                              typename C::X* out, int tokens) {
  using X = typename C::X;
  constexpr int kElements = kLineElements<X>;
  __shared__ int counts[C::kRanks];
  wait_for_predecessor();
  if (peers_are_dead(landing->guard)) return;
  const uint32 epoch = begin_epoch(epochs);
  const int me = landing->position;
  const auto* lines = reinterpret_cast<const uint2*>(y);
  for (int r = blockIdx.x; r < (C::kRanks - 1) * tokens; r += gridDim.x) {
    const int p = (me + 1 + r / tokens) % C::kRanks, i = r % tokens;
    if (i >= received[p]) continue;
    const uint2* row = lines + (static_cast<int64>(p) * tokens + i) * C::kRowLines;
    for (int j = threadIdx.x; j < C::kRowLines; j += C::kThreads) {
      const int64 line = static_cast<int64>(i) * C::kRowLines + j;
      push_line(landing->at[p] + line_offset(line, me, C::kRanks, epoch), row[j], epoch);
    }
  }
  if (blockIdx.x == 0) {
    detail::push_mail<C>(mail, epoch, [&](int p) { return static_cast<uint32>(received[p]); });
  }
  launch_dependents();

  constexpr int kPieces = ceil_div(C::kRowLines, C::kThreads);
  PeerPatience patience(landing->guard);
  const uint8* own = landing->at[me];
  for (int piece = blockIdx.x; piece < tokens * kPieces; piece += gridDim.x) {
    const int t = piece / kPieces;
    const int j = (piece - t * kPieces) * C::kThreads + threadIdx.x;
    if (j >= C::kRowLines) continue;
    Vec<float, kElements> sum = zero_vec<float, kElements>();
    bool alive = true;
    for (int p = 0; alive && p < C::kRanks; ++p) {
      const int place = places[t * C::kRanks + p];
      if (place < 0) continue;
      uint2 payload;
      if (p == me) {
        payload = lines[(static_cast<int64>(p) * tokens + place) * C::kRowLines + j];
      } else {
        const int64 line = static_cast<int64>(place) * C::kRowLines + j;
        alive = await_line(own + line_offset(line, p, C::kRanks, epoch), epoch, payload, patience);
      }
      const Vec<float, kElements> part =
          to_float(*reinterpret_cast<const Vec<X, kElements>*>(&payload));
#pragma unroll
      for (int i = 0; i < kElements; ++i) sum[i] += part[i];
    }
    if (!alive) break;
    const Vec<X, kElements> rounded = from_float<X>(sum);
    reinterpret_cast<uint2*>(out)[static_cast<int64>(t) * C::kRowLines + j] =
        *reinterpret_cast<const uint2*>(&rounded);
  }
  // Block 0 waits for all members, also for those that have no rows for this one.
  if (blockIdx.x == 0) detail::await_line_mail<C>(mail, epoch, counts);
  clear_stale(landing, C::kRanks, epoch, [&](int64 line, int p) {
    return line < static_cast<int64>(counts[p]) * C::kRowLines;
  });
  end_epoch(epochs, epoch);
}

}  // namespace shunt
