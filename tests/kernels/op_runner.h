// Every row of the kernel table against the evaluator: a case's module is lowered once with the
// rows that selection takes and once for every other row that supports one of its ops, run by a
// Session, and compared output by output.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "codegen/lower.h"
#include "tests/kernels/op_cases.h"

namespace shunt::test {

/// A case lowered in one way.
struct LoweredCase {
  std::string label;  // "selected", or the row that was forced
  codegen::Lowered lowered;
};

/// One module with its parameters' values, on one target.
class CaseRunner {
 public:
  CaseRunner(const OpCase& op_case, const std::string& target);
  ~CaseRunner();

  /// Every way to lower the case. Throws UserError if an op has no row.
  std::vector<LoweredCase> lower_all() const;
  /// Runs one of them; `plan_directory` holds its kernels. Returns one line a difference, naming
  /// op, row, sizes and the largest error; at most a few.
  std::vector<std::string> run(LoweredCase lowered, const std::filesystem::path& plan_directory);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A folder of this process, removed at its end. kernels/ in it holds what compile_kernels wrote.
const std::filesystem::path& scratch_plan();

/// Compiles the kernels of all of these (through the cache in $SHUNT_CACHE_DIR, or one in the
/// scratch folder), notes their digests in the plans, and writes the cubins to scratch_plan().
/// Returns how many there are. Throws UserError with the compiler's log.
size_t compile_kernels(std::vector<LoweredCase*> lowered, const std::string& target);

}  // namespace shunt::test
