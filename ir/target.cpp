// The table of targets. The H200 figures are measured (docs/performance.md), the A100's are the
// vendor's.
#include "ir/target.h"

#include "ir/error.h"

namespace shunt {

const std::vector<Target>& all_targets() {
  static const std::vector<Target> targets = {
      {.name = "cpu",
       .kind = Target::Kind::cpu,
       .sm_count = 2,
       .l2_bytes = 32 << 20,
       .memory_bytes_per_s = 30e9,
       .matmul_flops_per_s = 150e9,
       .vector_flops_per_s = 20e9,
       .launch_seconds = 2e-6,
       .kernel_seconds = 2e-6,
       .link_bytes_per_s = 10e9,
       .collective_seconds = 5e-6,
       .memory_bytes = int64_t{16} << 30},
      {.name = "sm_90a",
       .kind = Target::Kind::cuda,
       .sm = 90,
       .sm_count = 132,
       .smem_per_block = 227 * 1024,
       .l2_bytes = 50 << 20,
       .memory_bytes_per_s = 4.5e12,
       .matmul_flops_per_s = 780e12,
       .vector_flops_per_s = 60e12,
       .launch_seconds = 1.0e-6,
       .kernel_seconds = 5e-6,
       .link_bytes_per_s = 340e9,
       .collective_seconds = 7e-6,
       .peer_seconds = 4e-6,
       .step_seconds = 80e-6,
       .memory_bytes = int64_t{139} << 30},
      {.name = "sm_80",
       .kind = Target::Kind::cuda,
       .sm = 80,
       .sm_count = 108,
       .smem_per_block = 163 * 1024,
       .l2_bytes = 40 << 20,
       .memory_bytes_per_s = 1.9e12,
       .matmul_flops_per_s = 280e12,
       .vector_flops_per_s = 19e12,
       .launch_seconds = 1.5e-6,
       .kernel_seconds = 5e-6,
       .link_bytes_per_s = 200e9,
       .collective_seconds = 8e-6,
       .peer_seconds = 5e-6,
       .step_seconds = 80e-6,
       .memory_bytes = int64_t{79} << 30},
  };
  return targets;
}

const Target& find_target(std::string_view name) {
  std::string known;
  for (const Target& t : all_targets()) {
    if (t.name == name) return t;
    known += (known.empty() ? "" : ", ") + t.name;
  }
  user_error("unknown target '{}' (known: {})", name, known);
}

}  // namespace shunt
