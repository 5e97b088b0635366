// Host kernels of many ranks that move no data between them: shard, local_routes. Test:
// tests/runtime/host/ranks_test.cpp.
#include <cstring>

#include "ir/random.h"
#include "runtime/host/kernels/args.h"

namespace shunt::host {

void shard(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* x = args.floats();  // [outer, width, inner]
  const int64_t outer = args.integer();
  const int64_t width = args.integer();
  const int64_t inner = args.integer();
  const int64_t begin = args.integer();
  const int64_t count = args.integer();
  const int64_t size = args.integer();
  float* out = args.pointer<float>();  // [outer, size, inner]
  args.done();
  for_rows(pool, outer, size * inner, [&](int64_t row, int) {
    float* to = out + row * size * inner;
    std::memcpy(to, x + (row * width + begin) * inner,
                static_cast<size_t>(count * inner) * sizeof(float));
    std::fill(to + count * inner, to + size * inner, 0.0f);
  });
}

void local_routes(std::span<const HostSlot> slots, ThreadPool&) {
  Args args(slots);
  const int32_t* ids = args.ints();    // [tokens, k]
  const float* table = args.floats();  // [experts, replicas, 3]
  const int64_t tokens = args.integer();
  const int64_t k = args.integer();
  const int64_t experts = args.integer();
  const int64_t replicas = args.integer();
  const int64_t mine = args.integer();
  auto* out = args.pointer<int32_t>();
  args.done();
  for (int64_t t = 0; t < tokens; ++t) {
    const float u = route_share(static_cast<uint32_t>(t));
    for (int64_t r = t * k; r < (t + 1) * k; ++r) {
      out[r] = -1;
      if (ids[r] < 0) continue;
      SHUNT_CHECK(ids[r] < experts, "expert {} of {}", ids[r], experts);
      const float* row = table + ids[r] * replicas * 3;
      for (int64_t i = 0; i < replicas; ++i, row += 3) {
        if (u >= row[2]) continue;
        if (static_cast<int64_t>(row[0]) == mine) out[r] = static_cast<int32_t>(row[1]);
        break;
      }
    }
  }
}

}  // namespace shunt::host
