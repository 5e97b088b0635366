// dispatch and combine over peer memory: messages (dispatch.cuh) and results are written where they
// are read, only those that exist, and a flag a rank says that all are there.
//
// Landing memory is one part of `tokens` messages, or rows, a member of the group; it is not doubled:
// a rank writes to dispatch's only after the combine before has ended on it, which waited for every
// member to have read its messages; likewise the other way round.
//
// Config as in dispatch.cuh. Grids have at most kPeerEpochs blocks, and loop.
#pragma once

#include "common/arrivals.cuh"
#include "dispatch.cuh"
#include "ptx/peer.cuh"

namespace shunt {

/// What a member tells another: how many messages it sent in this epoch. One in 16 bytes.
struct PeerMail {
  uint32 epoch, count, unused[2];
};

namespace detail {
__device__ unsigned int push_arrivals;

/// After the last store of the block: the last block tells every member p counts[p].
template <class C, class Count>
__device__ __forceinline__ void mail_counts(const PeerTable* mail, uint32 epoch, Count&& count_of) {
  __syncthreads();
  if (threadIdx.x == 0) __threadfence_system();  // the block's rows are there, also for the peers
  if (!arrives_last(&push_arrivals, gridDim.x)) return;
  const int p = threadIdx.x;
  if (p >= C::kRanks) return;
  PeerMail* to = reinterpret_cast<PeerMail*>(mail->at[p]) + mail->position;
  store_relaxed(&to->count, count_of(p));
  signal(&to->epoch, epoch);
}

/// Waits for the mail of every member; counts[p] is then what p sent, 0 if nobody will come.
template <class C>
__device__ __forceinline__ void await_mail(const PeerTable* mail, uint32 epoch, int* counts) {
  const int p = threadIdx.x;
  if (p < C::kRanks) {
    const PeerMail* from = reinterpret_cast<const PeerMail*>(mail->at[mail->position]) + p;
    const bool alive = !peers_are_dead(mail->guard) && await(&from->epoch, epoch, mail->guard);
    counts[p] = alive ? static_cast<int>(load_relaxed(&from->count)) : 0;
  }
  __syncthreads();
}
}  // namespace detail

/// Writes every message to the landing memory of its receiver.
template <class C>
__device__ __forceinline__ void dispatch_push(const typename C::X* x, const int* ids,
                                              const float* w, const float* table,
                                              const int* places, const int* counts,
                                              const PeerTable* landing, const PeerTable* mail,
                                              const uint32* epochs, int tokens, int base) {
  wait_for_predecessor();
  launch_dependents();
  if (peers_are_dead(mail->guard)) return;
  const uint32 epoch = begin_epoch(epochs);
  for (int t = blockIdx.x; t < tokens; t += gridDim.x) {
    for (int p = 0; p < C::kRanks; ++p) {
      const int place = places[t * C::kRanks + p];
      if (place < 0) continue;
      const int64 row = static_cast<int64>(landing->position) * tokens + place;
      detail::write_message<C>(x, ids, w, table, t, detail::ep_of_member<C>(p, base),
                               landing->at[p] + row * C::kRow);
    }
  }
  detail::mail_counts<C>(mail, epoch, [&](int p) { return static_cast<uint32>(counts[p]); });
}

/// Messages to rows, ids and weights, as dispatch_unpack. received[p] = how many p sent.
template <class C>
__device__ __forceinline__ void dispatch_receive(const PeerTable* landing, const PeerTable* mail,
                                                 uint32* epochs, typename C::X* x, int* ids,
                                                 float* w, int* received, int tokens) {
  __shared__ int counts[C::kRanks];
  wait_for_predecessor();
  launch_dependents();
  const uint32 epoch = begin_epoch(epochs);
  detail::await_mail<C>(mail, epoch, counts);
  const uint8* messages = landing->at[landing->position];
  for (int row = blockIdx.x; row < C::kRanks * tokens; row += gridDim.x) {
    const int p = row / tokens;
    const bool sent = row - p * tokens < counts[p];
    detail::read_message<C>(messages + static_cast<int64>(row) * C::kRow, sent, row, x, ids, w);
  }
  if (blockIdx.x == 0 && threadIdx.x < C::kRanks) received[threadIdx.x] = counts[threadIdx.x];
  end_epoch(epochs, epoch);
}

/// Writes y[p, i] for i < received[p] to the landing memory of member p.
template <class C>
__device__ __forceinline__ void combine_push(const typename C::X* y, const int* received,
                                             const PeerTable* landing, const PeerTable* mail,
                                             const uint32* epochs, int tokens) {
  wait_for_predecessor();
  launch_dependents();
  if (peers_are_dead(mail->guard)) return;
  const uint32 epoch = begin_epoch(epochs);
  for (int row = blockIdx.x; row < C::kRanks * tokens; row += gridDim.x) {
    const int p = row / tokens, i = row - p * tokens;
    if (i >= received[p]) continue;
    const int64 to = static_cast<int64>(landing->position) * tokens + i;
    detail::copy_row<C>(y + static_cast<int64>(row) * C::kCols,
                        reinterpret_cast<typename C::X*>(landing->at[p]) + to * C::kCols);
  }
  detail::mail_counts<C>(mail, epoch, [](int) { return 1u; });
}

/// combine_places of what has landed. Work is dealt out in pieces of kThreads * kVec columns.
template <class C>
__device__ __forceinline__ void combine_receive(const PeerTable* landing, const PeerTable* mail,
                                                uint32* epochs, const int* places,
                                                typename C::X* out, int tokens) {
  constexpr int kPieces = (C::kCols + C::kThreads * C::kVec - 1) / (C::kThreads * C::kVec);
  __shared__ int arrived[C::kRanks];
  wait_for_predecessor();
  launch_dependents();
  const uint32 epoch = begin_epoch(epochs);
  detail::await_mail<C>(mail, epoch, arrived);
  const auto* rows = reinterpret_cast<const typename C::X*>(landing->at[landing->position]);
  for (int piece = blockIdx.x; piece < tokens * kPieces; piece += gridDim.x) {
    const int t = piece / kPieces;
    const int col = ((piece - t * kPieces) * C::kThreads + threadIdx.x) * C::kVec;
    if (col < C::kCols) detail::add_places<C>(rows, places, out, tokens, t, col);
  }
  end_epoch(epochs, epoch);
}

}  // namespace shunt
