// Which rank takes a route: the table that placement makes (passes/place/layout.h, route_table).
#pragma once

#include "common/types.cuh"

namespace shunt {

/// The slot of expert `id` on ep position `ep` if that takes the route of the token, else -1. table:
/// [experts, kReplicas, 3] of position, slot, upper end of the replica's share; the share of a token
/// is route_share() of ir/random.h.
template <int kReplicas>
__device__ __forceinline__ int route_slot(int id, uint32 token, int ep, const float* table) {
  if (id < 0) return -1;
  const float u = static_cast<float>(((token + 1u) * 2654435769u) >> 8) * 0x1p-24f;
  const float* row = table + static_cast<int64>(id) * kReplicas * 3;
  for (int i = 0; i < kReplicas; ++i, row += 3) {
    if (u >= row[2]) continue;
    return static_cast<int>(row[0]) == ep ? static_cast<int>(row[1]) : -1;
  }
  return -1;
}

}  // namespace shunt
