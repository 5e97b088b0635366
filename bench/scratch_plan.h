// Plans of benchmarks that time a few ops: lowered and compiled to a folder that is removed at the
// end.
#pragma once

#include <filesystem>

#include "codegen/lower.h"

namespace shunt {

/// A folder in the temporary directory.
class ScratchPlan {
 public:
  /// Throws UserError if it cannot be made.
  ScratchPlan();
  ~ScratchPlan();
  ScratchPlan(const ScratchPlan&) = delete;
  ScratchPlan& operator=(const ScratchPlan&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Lowers the module; the cubins go to path()/kernels. Throws UserError with the compiler's log.
  Plan compile(const ir::Module& module, const codegen::LowerOptions& options) const;

 private:
  std::filesystem::path path_;
};

}  // namespace shunt
