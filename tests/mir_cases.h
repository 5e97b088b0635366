// Golden-text cases: one file holds many small modules. Cases are split by a line "// -----"; a
// case opens with directive lines, in any order, then the module:
//
//   // CASE fuses_add_and_norm
//   // PASS fuse_norm               only where a pass is tested
//   // MESH dp 1 tp 2 ep 2 etp 1   of the pass; without: one rank
//   // MOE_COMM alltoall          as --moe-comm
//   // ERROR rms_norm (C1)          must throw a UserError whose text has this
//   <module>
//   // EXPECT                       text expected after the pass; or "// EXPECT unchanged"
//   <module after>
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "ir/module.h"
#include "ir/reference/tensor.h"

namespace shunt {

struct MirCase {
  std::string file;                   // full path
  std::string name;                   // after CASE; required and unique in its file
  std::string pass;                   // after PASS, or empty
  Mesh mesh;                          // after MESH
  bool alltoall = false;              // with dp > 1, tokens are dispatched to their experts
  std::string input;                  // the module before
  std::string error;                  // after ERROR, or empty
  std::optional<std::string> expect;  // text after EXPECT; ends with one newline
  bool unchanged = false;             // "EXPECT unchanged"
  int line = 0;                       // of the file, 1-based, where `input` begins
};

/// Every case of every *.mir file directly in `dir`, files in order of name. A file's first lines
/// may be comments before its first CASE. Throws UserError with file and line on a malformed one.
std::vector<MirCase> read_mir_cases(const std::string& dir);

/// True if SHUNT_UPDATE is set to 1: goldens are rewritten instead of compared.
bool update_expectations();

/// Replaces (or adds) what follows EXPECT of the case of this name in its file.
void rewrite_expectation(const MirCase& mir_case, const std::string& text);

/// For gtest: a case in messages, and its name as the parameter's name.
inline void PrintTo(const MirCase& c, std::ostream* out) { *out << c.file << ":" << c.line; }
std::string mir_case_test_name(const testing::TestParamInfo<MirCase>& info);

/// Runs both modules on the same seeded random inputs and compares every graph output, every pinned
/// value that both have, and the states. A graph of `before` is compared with every graph of
/// `after` that has its name or its name and a suffix ("step" with "step.decode.8"), over two
/// consecutive steps. Parameters come from @load where it stores them (checkpoint values depend
/// only on the tensor's name), otherwise they are random by name, and both modules must then have
/// them. Integer inputs get values that make sense for their role or their user. Relative
/// tolerance: 1e-5 where both modules compute in float32 only, else rounding of the narrowest type.
testing::AssertionResult compare_modules_by_evaluation(const ir::Module& before,
                                                       const ir::Module& after);

/// A ragged batch: how many tokens each sequence has, and how long it was before.
struct MirBatch {
  std::vector<int64_t> tokens, past;

  /// `tokens` over `sequences` as evenly as leaves them unequal.
  static MirBatch make(int64_t tokens, int64_t sequences);
  /// To the state after a step.
  void advance();
  /// Length of the longest sequence after the step.
  int64_t longest() const;
};

/// About normal numbers of deviation 0.6, rounded to the type; the same for the same name.
ir::Tensor random_mir_tensor(const Type& type, const std::string& name);
/// A graph input's value in step `step` of a batch: floats as above, integers by their role or user
/// (route ids that are distinct in a row and end in a dropped one, positions, page numbers, ...).
ir::Tensor random_mir_input(const ir::Value& input, const DimEnv& dims, const MirBatch& batch,
                            int step);

}  // namespace shunt
