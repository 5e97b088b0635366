// A plan on all its ranks, as far as they run in this process: threads, one a rank (the default),
// or the one rank that a launcher gave this process. The caller drives rank 0's session; the others
// follow it.
//
//   shunt::Ranks ranks(shunt::load_plan("plan"), "plan", {});
//   if (!ranks.leads()) return ranks.follow();      // a process that torchrun, mpirun or srun
//   started as rank > 0 shunt::Engine engine(ranks.session());
//   ...
//   ranks.finish();
//
// A plan for one rank needs no other ranks, and nothing is started for it.
#pragma once

#include <filesystem>
#include <memory>

#include "runtime/comm/control.h"
#include "runtime/comm/launcher.h"
#include "runtime/session.h"

namespace shunt {

struct RanksOptions {
  SessionOptions session =
      {};                   // `world` is set here; `device` is rank 0's GPU, rank r has device + r
  ProcessRank launch = {};  // how this process was started; not at all: threads
  Milliseconds comm_timeout{30'000};  // of every wait for another rank
};

class Ranks {
 public:
  /// Returns when all ranks have loaded the plan. Throws UserError for a plan that is not for this
  /// many ranks or GPUs, or not the same on all ranks; DeviceError if a rank fails.
  Ranks(Plan plan, const std::filesystem::path& plan_directory, RanksOptions options);
  /// Without finish(): the other ranks end with an error.
  ~Ranks();

  /// Of rank 0, or of the one rank that this process is.
  Session& session();
  bool leads() const;
  /// Of a process with a rank above 0: runs what rank 0 runs, until rank 0 finishes.
  void follow();
  /// Ends the other ranks in good order. Throws the failure of one that failed.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shunt
