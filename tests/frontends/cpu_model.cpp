#include "tests/frontends/cpu_model.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>

namespace shunt {

namespace fs = std::filesystem;

namespace {
constexpr int64_t kMaxLength = 128, kMaxSequences = 4, kPage = 64;
}

CompileOptions small_cpu_options(const fs::path& model_dir, std::vector<std::string>* warnings) {
  CompileOptions options;
  options.model_dir = model_dir;
  options.target = "cpu";
  options.max_model_len = kMaxLength;
  options.max_num_seqs = kMaxSequences;
  options.max_num_batched_tokens = options.max_logit_rows = 2 * kMaxLength;
  options.on_warning = [warnings](std::string_view warning) {
    if (warnings == nullptr) {
      ADD_FAILURE() << warning;
    } else {
      warnings->emplace_back(warning);
    }
  };
  return options;
}

CpuModel::CpuModel(const CompileOptions& options) {
  static std::atomic<int> next{0};
  plan_ = fs::temp_directory_path() / fmt::format("shunt_cpu_model_{}_{}", getpid(), next++);
  write_plan(compile(options), plan_);
  runner_ = make_plan_runner(plan_, kMaxSequences * kMaxLength / kPage);
}

CpuModel::~CpuModel() {
  runner_.reset();
  std::error_code ignored;
  fs::remove_all(plan_, ignored);
}

std::vector<int32_t> some_ids(int64_t count, int64_t vocab_size) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int32_t>((i * i * 7 + i * 13 + 3) % vocab_size));
  return ids;
}

Matrix logits_of(StepRunner& runner, const std::vector<int32_t>& ids) {
  return SequenceFeeder(runner, 1, kMaxLength).append(0, ids, false).logits;
}

Matrix logits_of(const fs::path& model_dir, const std::vector<int32_t>& ids,
                 std::vector<std::string>* warnings) {
  CpuModel model(small_cpu_options(model_dir, warnings));
  return logits_of(model.runner(), ids);
}

}  // namespace shunt
