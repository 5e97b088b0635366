// Which block is the last of several: the one that may use what all of them wrote.
#pragma once

#include "common/types.cuh"

namespace shunt {

/// True in the block that is the last of `expected` to call this with `counter`, to which
/// everything the others wrote before is then visible. The counter is a device variable of the
/// kernel's module: zero when loaded, and reset here by the last block, so that the next launch
/// finds zero again. All threads of the block must call it.
__device__ __forceinline__ bool arrives_last(unsigned int* counter, unsigned int expected) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1u) == expected - 1;
    if (last) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

}  // namespace shunt
