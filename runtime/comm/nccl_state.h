// The communicators of one rank and the one way they end. Private to runtime/comm/nccl*.cpp.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/comm/nccl.h"
#include "runtime/comm/nccl_peers.h"

namespace shunt {

/// A communicator. `mutex` is held around every NCCL call on it, so that it is not aborted (and
/// freed) in the middle of one; uncontended until then, and non-blocking calls do not hold it for
/// long.
struct NcclComm {
  std::mutex mutex;
  ncclComm_t handle = nullptr;  // null when it is about to be aborted
};

class NcclState {
 public:
  NcclState(std::unique_ptr<ControlChannel> channel, int device, Milliseconds init_timeout);
  ~NcclState();

  /// Collective over all ranks: the communicator of this rank's group.
  std::shared_ptr<NcclComm> split(const CommGroup& group);

  /// Runs `call(handle)` and waits until NCCL has taken it. DeviceError (after ending all ranks) if
  /// it has not within the deadline, or refuses.
  template <class Call>
  void issue(NcclComm& comm, const char* op, const CommSite& site, Call call) {
    const ncclResult_t result = locked(comm, call);
    if (result == ncclSuccess) return;
    if (result != ncclInProgress) fail(site_text(op, site), result);
    settle(comm, site_text(op, site), channel->timeout());
  }

  /// Words by which kernels over peer memory are ended, as communicators' are.
  std::shared_ptr<PeerWords> add_words();

  /// Throws (after ending all ranks) if a rank failed, or a kernel gave up waiting for a peer.
  void check();
  void wait(cudaStream_t stream, const CommSite& site);
  /// Ends all ranks.
  void abort(const std::string& reason);
  [[noreturn]] void fail(const std::string& reason);

  const std::unique_ptr<ControlChannel> channel;
  const int device;

 private:
  struct List {
    std::mutex mutex;                              // never taken under a communicator's
    std::vector<std::shared_ptr<NcclComm>> comms;  // [0]: all ranks
    std::vector<std::shared_ptr<PeerWords>> words;
    bool aborted = false;
  };

  template <class Call>
  ncclResult_t locked(NcclComm& comm, Call call) {
    const std::lock_guard lock(comm.mutex);
    check_alive(comm);
    return call(comm.handle);
  }
  std::shared_ptr<NcclComm> add_comm();
  void check_alive(const NcclComm& comm) const;
  ncclResult_t async_error(NcclComm& comm);
  /// Polls until no call is in progress on the communicator.
  void settle(NcclComm& comm, const std::string& what, Milliseconds timeout);
  void check_comms(const CommSite& site);
  void await_failure();
  [[noreturn]] void fail(const std::string& what, ncclResult_t result);
  void end_comms();
  static void free_all(List& list, bool orderly);

  const Milliseconds init_timeout_;
  const std::shared_ptr<List> list_ = std::make_shared<List>();
  std::thread ender_;
  std::future<void> ended_;
};

}  // namespace shunt
