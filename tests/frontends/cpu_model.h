// A model directory compiled for the cpu and run, for tests that compare what two of them compute.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tools/driver.h"
#include "tools/step_runner.h"

namespace shunt {

/// Limits that tiny models need, target cpu, warnings to `warnings` (nullptr: they fail the test).
CompileOptions small_cpu_options(const std::filesystem::path& model_dir,
                                 std::vector<std::string>* warnings = nullptr);

/// A plan in the temporary folder and its session; both go with it.
class CpuModel {
 public:
  explicit CpuModel(const CompileOptions& options);
  ~CpuModel();
  CpuModel(const CpuModel&) = delete;
  CpuModel& operator=(const CpuModel&) = delete;
  StepRunner& runner() { return *runner_; }

 private:
  std::filesystem::path plan_;
  std::unique_ptr<StepRunner> runner_;
};

/// Ids of the conformance kit's sequences, or others that are as good.
std::vector<int32_t> some_ids(int64_t count, int64_t vocab_size);

/// Logits of every position of one sequence, from position 0.
Matrix logits_of(StepRunner& runner, const std::vector<int32_t>& ids);
/// The same for a model directory through a cpu plan.
Matrix logits_of(const std::filesystem::path& model_dir, const std::vector<int32_t>& ids,
                 std::vector<std::string>* warnings = nullptr);

}  // namespace shunt
