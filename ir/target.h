// What Shunt knows of a machine it compiles for. Data, never a device query: a plan for an H200 is
// made on a laptop.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

struct Target {
  enum class Kind { cpu, cuda };
  std::string name;  // "cpu", "sm_90a", "sm_80"
  Kind kind = Kind::cpu;
  int sm = 0;                  // 90, 80; 0 on cpu
  int sm_count = 1;            // multiprocessors; on cpu the threads assumed by the cost model
  int64_t smem_per_block = 0;  // bytes a block may opt in to
  int64_t l2_bytes = 0;
  double memory_bytes_per_s = 0;  // sustained read bandwidth
  double matmul_flops_per_s = 0;  // dense 16-bit tensor cores (cpu: float32)
  double vector_flops_per_s = 0;  // float32 outside them
  double launch_seconds =
      0;  // one dependent kernel inside a CUDA graph (cpu: one parallel section)
  double kernel_seconds = 0;  // beyond the bytes of a kernel that streams memory: ramp-up and tail
  double link_bytes_per_s = 0;    // of a collective over NVLink, each way (cpu: copies)
  double collective_seconds = 0;  // of the smallest collective, before what each rank adds
  double peer_seconds = 0;        // of the smallest sum over peer memory of one node
  double step_seconds = 0;        // beside a step's kernels: inputs, sampling, ids, the host
  int64_t memory_bytes = 0;       // device memory assumed by --dry-run

  bool is_cpu() const { return kind == Kind::cpu; }
};

/// Throws UserError naming the known targets.
const Target& find_target(std::string_view name);
const std::vector<Target>& all_targets();

}  // namespace shunt
