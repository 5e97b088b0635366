// Greedy interval packing: large values first, each at the lowest offset free during its lifetime;
// and its checker. Entry point plan_memory(); tested by tests/codegen/memory_plan_test.cpp on
// random graphs.
#include "codegen/memory_plan.h"

#include <algorithm>
#include <numeric>

#include "ir/error.h"

namespace shunt::codegen {

namespace {
bool alive_together(const Lifetime& a, const Lifetime& b) {
  return a.first <= b.last && b.first <= a.last;
}
}  // namespace

int64_t plan_memory(std::vector<Lifetime>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return values[a].bytes > values[b].bytes; });
  std::vector<size_t> placed;  // by offset
  int64_t arena = 0;
  for (size_t i : order) {
    Lifetime& v = values[i];
    int64_t offset = 0;
    for (size_t j : placed) {
      const Lifetime& other = values[j];
      if (!alive_together(v, other)) continue;
      if (offset + v.bytes <= other.offset) break;  // fits in the gap below `other`
      offset = std::max(offset, align_up(other.offset + other.bytes));
    }
    v.offset = offset;
    arena = std::max(arena, align_up(offset + v.bytes));
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), i,
                         [&](size_t a, size_t b) { return values[a].offset < values[b].offset; }),
        i);
  }
  return arena;
}

void check_memory(const std::vector<Lifetime>& values, int64_t arena_bytes) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Lifetime& a = values[i];
    SHUNT_CHECK(a.offset >= 0 && a.offset % kAlignment == 0 && a.offset + a.bytes <= arena_bytes,
                "value {} at {}+{} is not inside the arena of {} bytes", i, a.offset, a.bytes,
                arena_bytes);
    for (size_t j = 0; j < i; ++j) {
      const Lifetime& b = values[j];
      const bool overlap = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
      SHUNT_CHECK(!overlap || !alive_together(a, b),
                  "values {} and {} share memory while both are alive", i, j);
    }
  }
}

}  // namespace shunt::codegen
