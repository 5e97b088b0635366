// From a module after all passes to a plan: kernels chosen, memory planned, steps written.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "codegen/kernel.h"
#include "ir/module.h"
#include "ir/target.h"
#include "runtime/plan/plan.h"

namespace shunt::codegen {

/// Where a checkpoint tensor lies: plan.files[file], bytes [offset, offset + bytes).
struct TensorSource {
  int file = -1;
  int64_t offset = 0;
  int64_t bytes = 0;
};

struct LowerOptions {
  const Target& target;
  Limits limits;
  std::function<TensorSource(const std::string& tensor)> find_tensor;
  std::string only_row =
      {};  // for tests: this row wins wherever it supports an op, whatever it costs
  bool peer_memory = false;  // all ranks are GPUs of one node that reach each other's memory
};

struct Lowered {
  Plan plan;  // kernels have names, digests come from the compiler
  std::vector<KernelSource>
      sources;  // sources[i] belongs to plan.kernels[i]; empty name for a host kernel
};

/// Lowers @load, every graph whose name begins with "step", and @sample. Throws UserError if an op
/// has no kernel for the target. Fills what the module knows of the plan; the caller adds model,
/// files and directory.
Lowered lower(const ir::Module& module, const LowerOptions& options);

}  // namespace shunt::codegen
