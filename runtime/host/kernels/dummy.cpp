// Host kernel dummy: normal numbers of a counter-based generator, so that element i depends on (seed, i) alone.
// Test: tests/runtime/host/rows_test.cpp.
#include <cmath>

#include "runtime/host/kernels/args.h"

namespace shunt::host {
namespace {

/// The finaliser of splitmix64.
uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Box and Muller: two 32-bit uniforms of one hash to one standard normal number.
float normal(uint64_t seed, uint64_t i) {
  const uint64_t bits = mix(mix(seed + 0x9e3779b97f4a7c15u) + i * 0x9e3779b97f4a7c15u);
  const float u = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;                // (0, 1)
  const float angle = static_cast<float>(bits & 0xffffff) * (0x1p-24f * 6.2831853f);
  return std::sqrt(-2.0f * std::log(u)) * std::cos(angle);
}

}  // namespace

void dummy(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  void* out = args.pointer<void>();
  const DType dtype = args.dtype();
  const int64_t n = args.integer();
  const auto seed = static_cast<uint64_t>(args.integer());
  const float mean = args.real();
  const float stddev = args.real();
  args.done();
  SHUNT_CHECK(dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16, "dummy values of {}",
              dtype_name(dtype));
  constexpr int64_t kPiece = 4096;
  for_rows(pool, ceil_div(n, kPiece), kPiece, [&](int64_t piece, int) {
    const RowRange range = chunk_rows(piece, kPiece, n);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const float value = mean + stddev * normal(seed, static_cast<uint64_t>(i));
      if (dtype == DType::f32) {
        static_cast<float*>(out)[i] = value;
      } else {
        static_cast<uint16_t*>(out)[i] = dtype == DType::bf16 ? bf16_from_f32(value) : f16_from_f32(value);
      }
    }
  });
}

}  // namespace shunt::host
