// dispatch and combine: tokens go to the ranks whose experts they take, once each, and the sums of
// their routes there come back.
//
// A message is a token's row, padded to 16 bytes (kPayload), then kTop ids (slots of the receiver's
// experts, or -1) and kTop weights; kRow bytes in all, a multiple of 16. A rank's messages to another
// are in the order of its tokens.
//
// Config of all: kRanks (of the group), kTop, kThreads; X (elements of a row), kCols, kVec.
// Config of what looks into the table: kReplicas, and kStride, kEtp: member p of the group is rank
// base + p * kStride, whose position along ep is that over kEtp.
#pragma once

#include "common/common.cuh"
#include "common/route_slot.cuh"

namespace shunt {

namespace detail {
template <class C>
__device__ __forceinline__ int ep_of_member(int p, int base) {
  return (base + p * C::kStride) / C::kEtp;
}
template <class C>
__device__ __forceinline__ int* message_ids(uint8* message) {
  return reinterpret_cast<int*>(message + C::kPayload);
}
template <class C>
__device__ __forceinline__ void copy_row(const typename C::X* from, typename C::X* to) {
  for (int i = threadIdx.x * C::kVec; i < C::kCols; i += C::kThreads * C::kVec)
    store(to + i, load<C::kVec>(from + i));
}

/// The message of token t to a rank at position `ep`, by all threads of the block.
template <class C>
__device__ __forceinline__ void write_message(const typename C::X* x, const int* ids,
                                              const float* w, const float* table, int t, int ep,
                                              uint8* message) {
  copy_row<C>(x + static_cast<int64>(t) * C::kCols, reinterpret_cast<typename C::X*>(message));
  int* slots = message_ids<C>(message);
  for (int j = threadIdx.x; j < C::kTop; j += C::kThreads) {
    slots[j] = route_slot<C::kReplicas>(ids[t * C::kTop + j], t, ep, table);
    reinterpret_cast<float*>(slots)[C::kTop + j] = w[t * C::kTop + j];
  }
}

/// A message to row `row` of x, ids and w. One that nobody sent gives ids -1, and the row keeps what
/// it was.
template <class C>
__device__ __forceinline__ void read_message(const uint8* message, bool sent, int64 row,
                                             typename C::X* x, int* ids, float* w) {
  const int* slots = reinterpret_cast<const int*>(message + C::kPayload);
  for (int j = threadIdx.x; j < C::kTop; j += C::kThreads) {
    ids[row * C::kTop + j] = sent ? slots[j] : -1;
    w[row * C::kTop + j] = sent ? reinterpret_cast<const float*>(slots)[C::kTop + j] : 0.0f;
  }
  if (sent) copy_row<C>(reinterpret_cast<const typename C::X*>(message), x + row * C::kCols);
}

/// out[t, col..] = the sum over p of received[p, places[t, p]], in the order of p.
template <class C>
__device__ __forceinline__ void add_places(const typename C::X* received, const int* places,
                                           typename C::X* out, int tokens, int t, int col) {
  Vec<float, C::kVec> sum = zero_vec<float, C::kVec>();
  for (int p = 0; p < C::kRanks; ++p) {
    const int place = places[t * C::kRanks + p];
    if (place < 0) continue;
    const int64 row = static_cast<int64>(p) * tokens + place;
    const Vec<float, C::kVec> part = to_float(load<C::kVec>(received + row * C::kCols + col));
#pragma unroll
    for (int i = 0; i < C::kVec; ++i) sum[i] += part[i];
  }
  store(out + static_cast<int64>(t) * C::kCols + col, from_float<typename C::X>(sum));
}
}  // namespace detail

/// places[t, p] = how many tokens before t go to member p, if t does, else -1; counts[p] = how many
/// go there in all. Block p is for member p. Padded tokens of a graph bucket go nowhere.
template <class C>
__device__ __forceinline__ void dispatch_places(const int* ids, const float* table, int* places,
                                                int* counts, int tokens, const int* true_tokens,
                                                int base) {
  constexpr int kWarps = C::kThreads / 32;
  __shared__ int warp_counts[kWarps];
  wait_for_predecessor();
  launch_dependents();
  const int p = blockIdx.x;
  const int ep = detail::ep_of_member<C>(p, base);
  const int valid = true_tokens != nullptr ? ::min(*true_tokens, tokens) : tokens;
  const int warp = threadIdx.x / 32, lane = lane_index();
  int sent = 0;
  for (int first = 0; first < tokens; first += C::kThreads) {
    const int t = first + threadIdx.x;
    bool goes = false;
    for (int j = 0; t < valid && j < C::kTop; ++j)
      goes |= route_slot<C::kReplicas>(ids[t * C::kTop + j], t, ep, table) >= 0;
    const unsigned int ballot = __ballot_sync(kFullWarp, goes);
    if (lane == 0) warp_counts[warp] = __popc(ballot);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < kWarps; ++w) {
      before += w < warp ? warp_counts[w] : 0;
      all += warp_counts[w];
    }
    __syncthreads();
    const int rank = before + __popc(ballot & ((1u << lane) - 1));
    if (t < tokens) places[t * C::kRanks + p] = goes ? sent + rank : -1;
    sent += all;
  }
  if (threadIdx.x == 0) counts[p] = sent;
}

/// Writes the messages of token blockIdx.x: messages[p, places[t, p]]. Of messages[p, counts[p]..]
/// only the ids are written, -1.
template <class C>
__device__ __forceinline__ void dispatch_pack(const typename C::X* x, const int* ids,
                                              const float* w, const float* table,
                                              const int* places, const int* counts,
                                              uint8* messages, int tokens, int base) {
  wait_for_predecessor();
  launch_dependents();
  const int t = blockIdx.x;
  for (int p = 0; p < C::kRanks; ++p) {
    uint8* part = messages + static_cast<int64>(p) * tokens * C::kRow;
    if (t >= counts[p]) {
      int* unused = detail::message_ids<C>(part + static_cast<int64>(t) * C::kRow);
      for (int j = threadIdx.x; j < C::kTop; j += C::kThreads) unused[j] = -1;
    }
    const int place = places[t * C::kRanks + p];
    if (place < 0) continue;
    detail::write_message<C>(x, ids, w, table, t, detail::ep_of_member<C>(p, base),
                             part + static_cast<int64>(place) * C::kRow);
  }
}

/// Messages to rows, ids and weights. A row that nobody sent has ids -1 and keeps what it was.
template <class C>
__device__ __forceinline__ void dispatch_unpack(const uint8* messages, typename C::X* x, int* ids,
                                                float* w) {
  wait_for_predecessor();
  launch_dependents();
  const int64 row = blockIdx.x;
  const uint8* message = messages + row * C::kRow;
  const int* slots = reinterpret_cast<const int*>(message + C::kPayload);
  bool sent = false;
  for (int j = 0; j < C::kTop; ++j) sent |= slots[j] >= 0;
  detail::read_message<C>(message, sent, row, x, ids, w);
}

/// out[t] = the sum over p of received[p, places[t, p]], in the order of p. blockIdx.x is t,
/// blockIdx.y a part of the columns.
template <class C>
__device__ __forceinline__ void combine_places(const typename C::X* received, const int* places,
                                               typename C::X* out, int tokens) {
  wait_for_predecessor();
  launch_dependents();
  const int t = blockIdx.x;
  const int col = (blockIdx.y * C::kThreads + threadIdx.x) * C::kVec;
  if (col >= C::kCols) return;
  detail::add_places<C>(received, places, out, tokens, t, col);
}

}  // namespace shunt
