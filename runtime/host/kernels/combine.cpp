// Host kernel combine_routes: the weighted sum of a token's routes. Test:
// tests/runtime/host/rows_test.cpp.
#include <cstring>

#include "runtime/host/kernels/args.h"

namespace shunt::host {

void combine_routes(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* y = args.floats();  // [T * k, h]
  const float* w = args.floats();  // [T, k]
  const int32_t* ids = args.ints();
  const float* residual = args.floats();  // [T, h] or nullptr
  const int64_t tokens = args.integer();
  const int64_t k = args.integer();
  const int64_t h = args.integer();
  float* out = args.pointer<float>();
  args.done();
  for_rows(pool, tokens, h * (k + 2), [&](int64_t t, int) {
    float* row = out + t * h;
    const size_t bytes = static_cast<size_t>(h) * sizeof(float);
    if (residual != nullptr) {
      std::memcpy(row, residual + t * h, bytes);
    } else {
      std::memset(row, 0, bytes);
    }
    for (int64_t r = t * k; r < (t + 1) * k; ++r) {
      if (ids[r] >= 0) simd().axpy(row, w[r], y + r * h, h);
    }
  });
}

}  // namespace shunt::host
