// Counter-based random numbers: the same on every machine and target, since dummy weights, sampling
// and the gate's random choices are part of what a plan computes. codegen/kernels/common/random.cuh
// repeats this for the device.
#pragma once

#include <cstdint>

namespace shunt {

/// One step of SplitMix64: a well mixed 64-bit number for each x.
constexpr uint64_t splitmix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// A number in (0, 1) that depends on seed, token and expert only: what a gate draws.
constexpr double uniform_of_route(int64_t seed, int64_t token, int64_t expert) {
  const uint64_t x = static_cast<uint64_t>(seed) * 0x9E3779B97F4A7C15u +
                     (static_cast<uint64_t>(token) << 16) + static_cast<uint64_t>(expert);
  return (static_cast<double>(splitmix64(splitmix64(x)) >> 41) + 0.5) * 0x1p-23;
}

/// Where token t of a step falls in [0, 1): multiples of the golden ratio, which spread evenly over
/// any run of tokens, in 24 bits, so that every target gets the same float. Decides which replica
/// of an expert a token takes.
constexpr float route_share(uint32_t token) {
  return static_cast<float>(((token + 1) * 2654435769u) >> 8) * 0x1p-24f;
}

}  // namespace shunt
