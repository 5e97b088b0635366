// Chooses the vector routines by what the machine has. Entry points: simd(), all_simd().
// Tests: tests/runtime/host/simd_test.cpp.
#include "runtime/host/simd.h"

#include <array>

namespace shunt::host {

namespace baseline {
extern const Simd kSimd;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Simd kSimd;
}
namespace avx512 {
extern const Simd kSimd;
}
#endif

namespace {

struct Versions {
  std::array<const Simd*, 3> list{};
  size_t count = 0;

  Versions() {
#if defined(__x86_64__)
    // Every processor with AVX2 and FMA has F16C, which clang 14 cannot be asked about.
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      list[count++] = &avx512::kSimd;
    }
    if (has_avx2) list[count++] = &avx2::kSimd;
#endif
    list[count++] = &baseline::kSimd;
  }
};

const Versions& versions() {
  static const Versions versions;
  return versions;
}

}  // namespace

const Simd& simd() {
  static const Simd& best = *versions().list[0];
  return best;
}

std::span<const Simd* const> all_simd() { return {versions().list.data(), versions().count}; }

}  // namespace shunt::host
