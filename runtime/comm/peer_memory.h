// Memory on every GPU of a node that the kernels of the other ranks read and write over NVLink or
// PCIe: what collectives over peer memory run on (codegen/kernels/ptx/peer.cuh, docs/ranks.md). Made by
// CommWorld::peer_memory(), by all ranks together.
//
// Ranks that are threads of one process use each other's addresses as they are; a rank that is a
// process opens the others' memory by its handle. Such memory must not be freed while another rank
// has it open, or its kernels still write there. So each rank calls close() when its stream is
// done, all meet (ControlChannel::close()), and then it may go in any order. Without that (a rank
// failed) it is left to the end of the process.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shunt {

class PeerMemory {
 public:
  virtual ~PeerMemory() = default;
  /// The memory of a rank of the world, as this rank's GPU reaches it, 256-byte aligned and zero at
  /// first; its own, too. nullptr for a rank that was not asked for, and after close().
  virtual std::byte* of(int rank) const = 0;
  /// Device address of this rank's PeerGuard (runtime/plan/peer_table.h).
  virtual std::byte* guard() const = 0;
  /// Lets go of the other ranks' memory. Nothing that uses it may be queued any more.
  virtual void close() = 0;
};

}  // namespace shunt
