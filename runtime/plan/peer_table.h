// What a kernel gets to reach the memory of other ranks: the layouts that host and device code
// share. The host writes them at load (runtime/session_peers.cpp, runtime/comm/nccl_peers.cpp);
// codegen/kernels/ptx/peer.cuh declares the same structs for the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ir/mesh.h"

namespace shunt {

/// Counters of epochs of a kernel, one a block: the largest number of blocks in its grid
/// (kPeerEpochs of codegen/kernels/common/peer_layout.cuh).
inline constexpr int64_t kPeerEpochCounters = 256;

/// In this rank's device memory, one a session: when a kernel stops waiting for a peer.
struct PeerGuard {
  uint32_t dead = 0;  // set by a kernel that gave up: from then on no kernel pushes or waits
  uint32_t reserved = 0;
  uint64_t limit_ns = 0;            // of one wait
  const uint32_t* abort = nullptr;  // not zero: give up. Pinned host memory, which the host sets
  uint32_t* report = nullptr;       // pinned host memory: set to 1 by a kernel whose limit was over
};

/// A buffer of the peer arena on every rank of a group.
struct PeerTable {
  PeerGuard* guard = nullptr;
  int64_t bytes = 0;     // of the buffer
  int32_t position = 0;  // of this rank in the group
  int32_t ranks = 0;
  std::byte* at[kMaxPeers] = {};  // by position in the group; at[position] is this rank's own
};

static_assert(sizeof(void*) == 8 && sizeof(PeerGuard) == 32 && sizeof(PeerTable) == 24 + 8 * 8);

}  // namespace shunt
