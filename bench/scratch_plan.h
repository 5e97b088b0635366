// Plans of benchmarks that time a few ops: lowered and compiled to a folder that is removed at the
// end; and how their steps are timed.
#pragma once

#include <filesystem>
#include <vector>

#include "codegen/lower.h"
#include "runtime/session.h"

namespace shunt {

/// A plan in a folder of the temporary directory.
class ScratchPlan {
 public:
  /// Throws UserError if it cannot be made.
  ScratchPlan();
  ~ScratchPlan();
  ScratchPlan(const ScratchPlan&) = delete;
  ScratchPlan& operator=(const ScratchPlan&) = delete;

  std::filesystem::path path() const { return folder_ / "plan"; }
  /// Lowers the module and writes its plan to path(), in place of an earlier one. Throws UserError
  /// with the compiler's log.
  Plan compile(const ir::Module& module, const codegen::LowerOptions& options) const;

 private:
  std::filesystem::path folder_;
};

/// Seconds that one of `steps` decode steps of `sequences` takes, queued one after the other.
double seconds_a_step(Session& session, int64_t sequences, int steps);
/// The upper one of two in the middle. `values` must have some.
double median(std::vector<double> values);

}  // namespace shunt
