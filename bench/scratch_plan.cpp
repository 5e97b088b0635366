#include "bench/scratch_plan.h"

#include <algorithm>
#include <chrono>

#include "ir/error.h"
#include "tools/driver.h"

namespace shunt {

namespace fs = std::filesystem;

ScratchPlan::ScratchPlan() {
  std::string name = (fs::temp_directory_path() / "shunt_bench_XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) user_error("cannot make a folder like {}", name);
  folder_ = name;
}

ScratchPlan::~ScratchPlan() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

Plan ScratchPlan::compile(const ir::Module& module, const codegen::LowerOptions& options) const {
  codegen::Lowered lowered = codegen::lower(module, options);
  lowered.plan.model.vocab_size = 1;
  CompileOptions kernels;
  kernels.target = options.target.name;
  CompiledPlan compiled;
  compile_kernels(lowered, kernels, compiled);
  compiled.plan = std::move(lowered.plan);
  write_plan(compiled, path());
  return std::move(compiled.plan);
}

double seconds_a_step(Session& session, int64_t sequences, int steps) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < steps; ++i) session.run_step(true, sequences, sequences, sequences);
  session.synchronize();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / steps;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace shunt
