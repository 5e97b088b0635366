// How long a sum over ranks, or a dispatch of tokens to them, takes, by what carries it: what the
// choice of a kernel and the prediction of a layout share. From a target's figures; measured ones
// stand in docs/performance.md.
#pragma once

#include <cstdint>

#include "ir/mesh.h"
#include "ir/target.h"

namespace shunt {

/// A sum over peer memory (docs/ranks.md) is for at most so many bytes of one rank's copy: its
/// buffers take several times as much.
inline constexpr int64_t kMaxPeerBytes = int64_t{4} << 20;

/// True if ranks of a group of this size exchange tokens (dispatch, combine), or may sum, over peer
/// memory.
constexpr bool exchanges_over_peers(int64_t ranks, bool peer_memory) {
  return peer_memory && ranks >= 2 && ranks <= kMaxPeers;
}

/// A dispatch or combine over peer memory may go by lines (of 8 bytes of data) where all messages a
/// rank may get have at most kMaxPeerBytes.
constexpr bool exchanges_by_lines(double landing_bytes, int64_t row_bytes) {
  return landing_bytes <= static_cast<double>(kMaxPeerBytes) && row_bytes % 8 == 0;
}

/// Target::collective_seconds with which an all-reduce of a few bytes takes two ranks `seconds`.
double collective_seconds_of_two(double seconds);

/// Through the communicator, `bytes` in all over the link in `rounds` (an all-reduce has two).
double comm_seconds(int rounds, double bytes, int ranks, const Target& target);
/// Every rank pushes its copy to all.
double peer_seconds(double bytes, int ranks, const Target& target);
/// Every rank sums a slice and pushes the result to all.
double peer_sliced_seconds(double bytes, int ranks, const Target& target);
/// The quickest of them that is taken.
double all_reduce_seconds(double bytes, int ranks, bool peer_memory, const Target& target);

/// Kernels of a dispatch and of a combine with flags.
inline constexpr int kDispatchKernels = 3, kCombineKernels = 2;
/// One dispatch or combine of `bytes` over the busiest link, pushed with flags by so many kernels.
double exchange_seconds(int kernels, double bytes, const Target& target);
/// ... and by lines: one kernel, one trip, twice the bytes.
double exchange_lines_seconds(double bytes, const Target& target);

}  // namespace shunt
