// The table of cases that the kernel tests run: small modules that between them hold every op of
// @step and @sample, with awkward sizes. Text inside the program, so that the GPU test is one file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ir/reference/tensor.h"

namespace shunt::test {

/// One run of a program of the module. Sequences continue where the last run left them.
struct OpRun {
  std::vector<int64_t> tokens;  // new tokens of each sequence; T is their sum, S their number
  bool decode = false;          // one token a sequence
  int64_t rows = 1;             // R
  bool sample = false;          // runs @sample over `rows` rows, not @step
};

struct OpCase {
  std::string name;    // letters, digits and '_'
  std::string module;  // .mir text
  std::vector<OpRun> runs;
  bool cpu = false;  // its activations are all f32: the cpu target has rows for it
  /// Changes the value of an input before run `run`, or of a parameter (run = -1).
  std::function<void(const std::string& name, int run, ir::Tensor& value)> adjust = {};
  double slack = 1;  // multiplies tolerances: > 1 where rounded values feed further ops
};

/// All cases, names unique.
const std::vector<OpCase>& op_cases();

// By family, one file each.
std::vector<OpCase> tensor_cases();     // op_cases.cpp
std::vector<OpCase> linear_cases();     // op_cases_linear.cpp
std::vector<OpCase> moe_cases();        // op_cases_moe.cpp
std::vector<OpCase> attention_cases();  // op_cases_attention.cpp
std::vector<OpCase> recurrent_cases();  // op_cases_recurrent.cpp

}  // namespace shunt::test
