// Expert capacity of the host kernel topk_gate.
#pragma once

#include <cstdint>

#include "runtime/host/thread_pool.h"
#include "runtime/plan/host_kernels.h"

namespace shunt::host {

struct Capacity {
  HostDrop drop = HostDrop::none;
  float factor = 0;  // the gate's capacity_factor * k
  int64_t min_capacity = 0;
  bool sample_second = false;
  int64_t seed = 0;
  int64_t tokens = 0, experts = 0, k = 0;
  bool normalise = false;  // RouteNorm::sum
  float norm_eps = 0, norm_min = 0, scale = 1;

  bool active() const { return drop != HostDrop::none || sample_second; }
  /// `logits` [T, E]; `forced` [T, k] or nullptr; `w` [T, k], scores of the chosen; `ids` [T, k]. A
  /// dropped route gets id -1 and weight 0; the others' weights are normalised and scaled. A token
  /// whose choice is forced keeps its second expert. Uses the caller's scratch -2.
  void apply(const float* logits, const int32_t* forced, float* w, int32_t* ids,
             ThreadPool& pool) const;
};

}  // namespace shunt::host
