// Host kernels of many ranks that move no data between them: shard, local_routes. Test:
// tests/kernels/op_cpu_test.cpp.
#include <cstring>

#include "runtime/host/kernels/args.h"
#include "runtime/host/kernels/route_slot.h"

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
  const RouteTable routes{table, experts, replicas};
  for (int64_t r = 0; r < tokens * k; ++r) out[r] = routes.slot_of(ids[r], r / k, mine);
}

}  // namespace shunt::host
