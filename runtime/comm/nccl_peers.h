// Peer memory of a rank on a GPU, and how its waiting kernels are told to end. Private to
// runtime/comm/nccl*.cpp.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/comm/control.h"
#include "runtime/comm/peer_memory.h"

namespace shunt {

/// Words in pinned host memory between the host and kernels that wait for a peer.
class PeerWords {
 public:
  PeerWords();
  ~PeerWords();
  PeerWords(const PeerWords&) = delete;
  PeerWords& operator=(const PeerWords&) = delete;
  /// Kernels that wait for a peer give up. From any thread.
  void abort();
  /// A kernel's limit was over before its peer came.
  bool gave_up() const;

  uint32_t* on_device(int word) const { return device_ + word; }
  static constexpr int kAbort = 0, kReport = 1;

 private:
  uint32_t* host_ = nullptr;
  uint32_t* device_ = nullptr;
};

/// The peer memory of this rank; called by all ranks of `control` at the same time. `reach`: the
/// world ranks that it must reach. Throws UserError (incompatible_plan) naming two GPUs that cannot
/// reach each other.
std::unique_ptr<PeerMemory> make_peer_memory(ControlChannel& control, int device, int64_t bytes,
                                             const std::vector<int>& reach,
                                             std::shared_ptr<PeerWords> words);

}  // namespace shunt
