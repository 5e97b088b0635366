// Ranks as threads of one process: control channels for any of them, collectives over host memory
// for the cpu target.
//
//   InProcessWorld ranks(4, Milliseconds(30'000));
//   // in thread r:
//   std::unique_ptr<CommWorld> world = ranks.join(r);
//   auto tp = world->group({"tp", {0, 1, 2, 3}});
//   tp->all_reduce(data, count, DType::f32, {step, op, loc}, nullptr);
//   world->control().close();
//
// Sums are over ranks in ascending order within the group, in float32 (i32: modulo 2^32), rounded
// once: the same bits on all ranks and in all runs. Collectives return when they are done on all
// ranks of the group. A rank whose call differs from the others' (op, count, dtype, root, step,
// loc) is an error on all ranks that prints both.
#pragma once

#include <memory>

#include "runtime/comm/comm.h"

namespace shunt {

class InProcessHub;

class InProcessWorld {
 public:
  InProcessWorld(int size, Milliseconds timeout);
  /// The view of one rank; may outlive this object. At most one of join() and control() for each
  /// rank.
  std::unique_ptr<CommWorld> join(int rank);
  /// The control channel alone: for GPU ranks that are threads (nccl.h).
  std::unique_ptr<ControlChannel> control(int rank);
  /// Ends all ranks from outside, with `reason` as it is.
  void fail(const std::string& reason);

 private:
  std::shared_ptr<InProcessHub> hub_;
};

}  // namespace shunt
