// Host kernel dummy: normal numbers of a counter-based generator, so that element i depends on
// (seed, i) alone. Test: tests/runtime/host/rows_test.cpp.
#include <cmath>

#include "ir/random.h"
#include "runtime/host/kernels/args.h"

namespace shunt::host {
namespace {

/// Box and Muller over two uniforms of 24 bits; the formula every target uses
/// (ir/reference/load.cpp).
float normal(uint64_t seed, uint64_t i) {
  const uint64_t a = splitmix64(seed * 0x9e3779b97f4a7c15u + i);
  const uint64_t b = splitmix64(a);
  const float u1 = static_cast<float>((a >> 40) + 1) * 0x1p-24f;  // (0, 1]
  const float u2 = static_cast<float>(b >> 40) * 0x1p-24f;        // [0, 1)
  return std::sqrt(-2.0f * std::log(u1)) * std::cos(6.2831853f * u2);
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
  SHUNT_CHECK(dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16,
              "dummy values of {}", dtype_name(dtype));
  constexpr int64_t kPiece = 4096;
  for_rows(pool, ceil_div(n, kPiece), kPiece, [&](int64_t piece, int) {
    const RowRange range = chunk_rows(piece, kPiece, n);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const float value = mean + stddev * normal(seed, static_cast<uint64_t>(i));
      if (dtype == DType::f32) {
        static_cast<float*>(out)[i] = value;
      } else {
        static_cast<uint16_t*>(out)[i] =
            dtype == DType::bf16 ? bf16_from_f32(value) : f16_from_f32(value);
      }
    }
  });
}

}  // namespace shunt::host
