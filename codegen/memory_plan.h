// Offsets for values with known lifetimes, so that values that are never alive together share
// memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shunt::codegen {

inline constexpr int64_t kAlignment = 256;
constexpr int64_t align_up(int64_t n, int64_t to = kAlignment) { return (n + to - 1) / to * to; }

/// A value needs `bytes` from step `first` (that writes it) to step `last` (that reads it last),
/// both inclusive.
struct Lifetime {
  int64_t bytes = 0;
  int first = 0;
  int last = 0;
  int64_t offset = 0;  // result
};

/// Sets every offset (a multiple of kAlignment) and returns the arena's size. Greedy by size, first
/// fit.
int64_t plan_memory(std::vector<Lifetime>& values);

/// Throws InternalError naming two values that are alive together and share a byte, or one that
/// leaves `arena_bytes`.
void check_memory(const std::vector<Lifetime>& values, int64_t arena_bytes);

}  // namespace shunt::codegen
