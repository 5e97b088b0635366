// What each step of a run cost: for `--trace` and `bench`.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ir/target.h"

namespace shunt {

struct StepTime {
  std::string name;  // the kernel row: "linear.cublaslt"
  std::string loc;   // "model.layers.0.mlp"
  double seconds = 0;
  int64_t bytes = 0;  // moved, counting each operand once; as the plan says at the run's sizes
  int64_t flops = 0;
};

/// The sum over all steps of one name; sorted by seconds, largest first.
struct StepTotal {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;
  int64_t bytes = 0, flops = 0;
};
std::vector<StepTotal> totals_by_name(std::span<const StepTime> steps);

/// The steps laid end to end as Chrome trace events (chrome://tracing, Perfetto), with GB/s,
/// TFLOP/s and their shares of the target's roofline.
std::string trace_json(std::span<const StepTime> steps, const Target& target);

}  // namespace shunt
