// Ranks on GPUs, through NCCL: a process a rank (control channel from rendezvous.h) or a thread a
// rank (from in_process.h); nothing here knows which.
//
//   use_device(gpu);
//   std::unique_ptr<CommWorld> world = make_nccl_world({.control = std::move(control), .device =
//   gpu}); auto ep = world->group({"ep", {0, 1, 2, 3}}); ep->all_reduce(data, count, DType::bf16,
//   site, stream.get());   // queued; may be captured into a CUDA graph world->wait(stream.get(),
//   site);                                 // not stream.synchronize() world->control().close();
//
// Communicators are non-blocking (unless NCCL_COMM_BLOCKING says otherwise), so that every wait in
// here ends at its deadline. A failure anywhere (of NCCL, of a deadline, or one that the control
// channel tells of) aborts all communicators of this rank, which ends the kernels that wait for a
// peer; the control channel does so on every rank.
//
// Nothing here sets an NCCL_* variable: the user's environment decides on algorithms, networks and
// NVLS. Every call must be made by a thread that has `device` as its current one.
#pragma once

#include <memory>
#include <string>

#include "runtime/comm/comm.h"

namespace shunt {

struct NcclOptions {
  std::unique_ptr<ControlChannel> control;
  int device = 0;
  /// To make communicators: longer than a step's, as NCCL probes links and networks then.
  Milliseconds init_timeout{120'000};
};

/// Makes the communicator of all ranks; called by all ranks at the same time.
std::unique_ptr<CommWorld> make_nccl_world(NcclOptions options);

/// "2.28.9": of the library that is loaded. For the handshake.
std::string nccl_version();

}  // namespace shunt
