// DeepSpeed's expert capacity: which routes of a batch are dropped, and what the gate reports.
#pragma once

#include <cstdint>
#include <vector>

#include "ir/attrs.h"

namespace shunt::ir {

/// What DeepSpeed's gate returns besides weights and ids.
struct RouteReport {
  int64_t capacity = 0;         // slots of an expert; without dropping the largest count
  std::vector<int64_t> counts;  // [E] routes before dropping
  std::vector<int32_t> slots;   // [T, k] place among the expert's kept routes; -1 dropped
  double aux_loss = 0;          // the load-balancing loss of training
};

/// Slots an expert has for a batch of `tokens` tokens: max(min_capacity, ceil(T / E * k * factor)),
/// in float32 as DeepSpeed computes it.
int64_t expert_capacity(const TopkGateAttrs& attrs, int64_t tokens, int64_t experts);

/// Drops routes, then normalises and scales the rest. `logits` [T, E]; `w` [T, k]: scores of the
/// chosen experts, not yet normalised; `ids` [T, k]; `forced` [T, k] as topk_gate has it, or
/// nullptr. A dropped route gets id -1 and weight 0.
RouteReport drop_routes(const TopkGateAttrs& attrs, int64_t tokens, int64_t experts,
                        const float* logits, const int32_t* forced, float* w, int32_t* ids);

}  // namespace shunt::ir
