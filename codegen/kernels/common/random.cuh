// Counter-based random numbers, bit for bit those of ir/random.h.
#pragma once

#include "common/types.cuh"

namespace shunt {

__device__ __forceinline__ uint64 splitmix64(uint64 x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

/// A number in (0, 1) that depends on seed, token and expert only: what a gate draws. It has 24
/// significant bits: float32 holds it exactly.
__device__ __forceinline__ double uniform_of_route(int64 seed, int64 token, int64 expert) {
  const uint64 x = static_cast<uint64>(seed) * 0x9E3779B97F4A7C15ull +
                   (static_cast<uint64>(token) << 16) + static_cast<uint64>(expert);
  return (static_cast<double>(splitmix64(splitmix64(x)) >> 41) + 0.5) * 0x1p-23;
}

}  // namespace shunt
