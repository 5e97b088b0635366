// What kernels that exchange lines (ptx/peer.cuh) share.
#pragma once

#include "common/common.cuh"
#include "ptx/peer.cuh"

namespace shunt {

/// Elements in a line.
template <class X>
inline constexpr int kLineElements = 8 / static_cast<int>(sizeof(X));

/// Waits for the line of this epoch. False: given up.
__device__ __forceinline__ bool await_line(const uint8* from, uint32 epoch, uint2& payload,
                                           PeerPatience& patience) {
  while (!poll_line(from, epoch, payload)) {
    if (!patience.again()) return false;
  }
  return true;
}

/// Clears a line of every source of this epoch's half unless peers push to it (line_to_clear):
/// used(line, source). By all threads of a grid; nobody may push to the half meanwhile.
template <class Used>
__device__ __forceinline__ void clear_stale(const PeerTable* table, int sources, uint32 epoch,
                                            Used used) {
  const int source = static_cast<int>(threadIdx.x);
  if (peer_block() != 0 || source >= sources) return;
  const int64 line = line_to_clear(table->bytes, sources, epoch);
  if (line < 0 || used(line, source)) return;
  uint8* landing = table->at[table->position];
  *reinterpret_cast<uint4*>(landing + line_offset(line, source, sources, epoch)) =
      make_uint4(0, 0, 0, 0);
}

}  // namespace shunt
