// Brings checkpoint bytes to where parameters live: the Read steps of a load program, in parallel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "runtime/checkpoint/file_reader.h"
#include "runtime/plan/plan.h"

namespace shunt {

/// Bytes read so far and in all. Called from loading threads, one at a time.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

/// One Read step and the address of its parameter bytes (`read.to` resolved).
struct ReadJob {
  const Read* read = nullptr;
  std::byte* to = nullptr;
};

class WeightLoader {
 public:
  /// Opens the plan's files and checks each one's size and header digest. Throws UserError that
  /// names the file. `device` >= 0: addresses are of that GPU, and bytes pass through page-locked
  /// staging buffers; -1: host memory.
  WeightLoader(std::span<const PlanFile> files, const std::filesystem::path& model_directory,
               int device, int threads);

  /// Runs the jobs and returns when all bytes are in place. Throws the first error of any thread.
  void run(std::span<const ReadJob> jobs, int64_t total_bytes, const LoadProgress& progress);

 private:
  std::vector<FileReader> files_;
  int device_;
  int threads_;
  int64_t done_ = 0;  // over all calls of run()
};

}  // namespace shunt
