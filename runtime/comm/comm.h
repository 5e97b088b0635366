// Collectives between ranks. CommWorld is one rank's view of all ranks; it makes one Communicator
// for each group of ranks on an axis of the mesh (the ranks that share a tensor slice, the ranks
// among which experts are spread, ...). Implemented by in_process.h (threads of one process, host
// memory; sums in rank order) and nccl.h (GPUs).
//
// All ranks of a group call the same collectives in the same order with the same sizes: the plan is
// one for all ranks. Counts are in elements of `dtype`. Memory is the caller's and must live until
// the collective is done: when the call returns for host memory, when `stream` gets there for a
// GPU's. `stream` is a cudaStream_t (Stream::get()), ignored for host memory.
//
// Errors are DeviceErrors that name rank, step and op: "rank 2 did not arrive at step 17,
// all_reduce model.layers.3.mlp within 30 s". A GPU's collectives are queued, so theirs come out of
// CommWorld::wait(). After any of them all communicators of all ranks are aborted, and every
// further call throws the same error.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ir/types.h"
#include "runtime/comm/control.h"
#include "runtime/comm/peer_memory.h"

namespace shunt {

/// The ranks that a collective runs over. The position in `ranks` is the rank within the group: it
/// decides the order of gathered parts and of sums.
struct CommGroup {
  std::string axis;        // "tp"
  std::vector<int> ranks;  // of the world, without repetition
  bool operator==(const CommGroup&) const = default;
};

/// Where in the plan a collective stands; for messages, and to tell which rank is behind.
struct CommSite {
  int64_t step = 0;      // how many steps ran before, the same on all ranks
  int32_t op = -1;       // index in the program
  std::string_view loc;  // "model.layers.3.mlp"; must live as long as the call
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  const CommGroup& group() const { return group_; }
  int rank() const { return rank_; }  // within the group
  int size() const { return static_cast<int>(group_.ranks.size()); }

  /// recv[count] = the sum over ranks of send[count], on all ranks. In place when they are the
  /// same. f32, f16, bf16, i32.
  virtual void all_reduce(const void* send, void* recv, int64_t count, DType dtype,
                          const CommSite& site, void* stream) = 0;
  /// The same in place.
  void all_reduce(void* data, int64_t count, DType dtype, const CommSite& site, void* stream) {
    all_reduce(data, data, count, dtype, site, stream);
  }
  /// recv[size, count] = the ranks' send[count]. In place when send is recv's part of this rank.
  virtual void all_gather(const void* send, void* recv, int64_t count, DType dtype,
                          const CommSite& site, void* stream) = 0;
  /// recv[count] = the sum over ranks of send[size, count]'s part of this rank. In place when recv
  /// is that part.
  virtual void reduce_scatter(const void* send, void* recv, int64_t count, DType dtype,
                              const CommSite& site, void* stream) = 0;
  /// recv[size, count]: part i is part `rank()` of rank i's send[size, count]. Not in place.
  virtual void all_to_all(const void* send, void* recv, int64_t count, DType dtype,
                          const CommSite& site, void* stream) = 0;
  /// all_to_all of at most slot_rows rows a pair of ranks. send and recv are [size, slot_rows,
  /// row_elements]; of part i the first counts[i] rows count, the others are undefined.
  /// send_counts[size] is read and recv_counts[size] written where the data is (on a GPU: in its
  /// memory, so that the host does not wait for them). A GPU moves whole parts.
  virtual void all_to_all_v(const void* send, const int32_t* send_counts, void* recv,
                            int32_t* recv_counts, int64_t slot_rows, int64_t row_elements,
                            DType dtype, const CommSite& site, void* stream) = 0;
  /// data[count] of the group's rank `root`, on all ranks.
  virtual void broadcast(void* data, int64_t count, DType dtype, int root, const CommSite& site,
                         void* stream) = 0;
  /// No rank gets past it before all have come to it; on a GPU this holds for the stream.
  virtual void barrier(const CommSite& site, void* stream) = 0;
  /// Ends all ranks with "rank R failed: reason"; does not throw.
  virtual void abort(const std::string& reason) = 0;

 protected:
  Communicator(CommGroup group,
               int world_rank);  // InternalError if the rank is not in the group, or twice

 private:
  CommGroup group_;
  int rank_ = -1;
};

class CommWorld {
 public:
  virtual ~CommWorld() = default;
  virtual ControlChannel& control() = 0;
  int rank() { return control().rank(); }
  int size() { return control().size(); }
  /// The communicator of this rank's group on an axis. Called by all ranks of the world, in the
  /// same order. It must not outlive the world.
  virtual std::unique_ptr<Communicator> group(CommGroup group) = 0;
  /// `bytes` of memory on this rank's GPU that the others' kernels reach, and of theirs that of the
  /// ranks `reach`. Called by all ranks of the world, with the same `bytes`. Throws UserError
  /// (incompatible_plan) where GPUs cannot reach each other; InternalError for host memory. It must
  /// not outlive the world.
  virtual std::unique_ptr<PeerMemory> peer_memory(int64_t bytes, const std::vector<int>& reach) = 0;
  /// Throws if a rank failed, or a kernel gave up waiting for a peer. Does not wait.
  virtual void check() = 0;
  /// Waits until `stream` has done all that is queued, at most the deadline; host memory: throws if
  /// a rank failed. To be used in place of Stream::synchronize(), which would wait for a dead peer
  /// for ever.
  virtual void wait(void* stream, const CommSite& site) = 0;
  /// Ends all ranks with "rank R failed: reason"; does not throw.
  virtual void abort(const std::string& reason) = 0;
};

/// "step 17, all_reduce model.layers.3.mlp".
std::string site_text(const char* op, const CommSite& site);

}  // namespace shunt
