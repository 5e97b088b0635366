// Counting the routes to each expert, always: what expert placement is planned from.
#pragma once

#include "common/types.cuh"

namespace shunt {

/// Adds one route to counts[expert]. Nobody waits for it: without a use of the old value it is a
/// reduction that the L2 cache carries out.
__device__ __forceinline__ void count_route(int64* counts, int expert) {
  atomicAdd(reinterpret_cast<uint64*>(counts + expert), uint64{1});
}

}  // namespace shunt
