// Plans of benchmarks that time a few ops: lowered and compiled to a folder that is removed at the
// end.
#pragma once

#include <filesystem>

#include "codegen/lower.h"

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

}  // namespace shunt
