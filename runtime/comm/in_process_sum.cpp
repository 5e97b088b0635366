// Sums over ranks in host memory: in the order of the ranks, in float32, rounded once, so that the
// result depends on neither timing nor the number of threads. Entry point: in_process_sum(). Tested
// by tests/runtime/comm/in_process_test.cpp.
#include <algorithm>
#include <array>
#include <cstring>

#include "ir/error.h"
#include "runtime/comm/in_process_hub.h"

namespace shunt {

namespace {

constexpr int64_t kBlock = 512;  // elements; the partial sums stay in the first-level cache

struct F32 {
  using Stored = float;
  using Sum = float;
  static Sum load(Stored x) { return x; }
  static Stored store(Sum x) { return x; }
};
struct Bf16 {
  using Stored = uint16_t;
  using Sum = float;
  static Sum load(Stored x) { return f32_from_bf16(x); }
  static Stored store(Sum x) { return bf16_from_f32(x); }
};
struct F16 {
  using Stored = uint16_t;
  using Sum = float;
  static Sum load(Stored x) { return f32_from_f16(x); }
  static Stored store(Sum x) { return f16_from_f32(x); }
};
struct I32 {
  using Stored = uint32_t;  // wraps
  using Sum = uint32_t;
  static Sum load(Stored x) { return x; }
  static Stored store(Sum x) { return x; }
};

template <class T>
void sum_as(const std::vector<const void*>& sources, const std::vector<void*>& targets,
            int64_t begin, int64_t end) {
  using Stored = typename T::Stored;
  std::array<typename T::Sum, kBlock> sum;
  std::array<Stored, kBlock> rounded;
  for (int64_t from = begin; from < end; from += kBlock) {
    const auto n = static_cast<size_t>(std::min(kBlock, end - from));
    for (size_t s = 0; s < sources.size(); ++s) {
      const Stored* x = static_cast<const Stored*>(sources[s]) + from;
      for (size_t i = 0; i < n; ++i) sum[i] = s == 0 ? T::load(x[i]) : sum[i] + T::load(x[i]);
    }
    for (size_t i = 0; i < n; ++i) rounded[i] = T::store(sum[i]);
    for (void* target : targets)
      std::memcpy(static_cast<Stored*>(target) + from, rounded.data(), n * sizeof(Stored));
  }
}

}  // namespace

void in_process_sum(DType dtype, const std::vector<const void*>& sources,
                    const std::vector<void*>& targets, int64_t begin, int64_t end) {
  switch (dtype) {
    case DType::f32: return sum_as<F32>(sources, targets, begin, end);
    case DType::bf16: return sum_as<Bf16>(sources, targets, begin, end);
    case DType::f16: return sum_as<F16>(sources, targets, begin, end);
    case DType::i32: return sum_as<I32>(sources, targets, begin, end);
    default: SHUNT_CHECK(false, "no sum of {} over ranks", dtype_name(dtype));
  }
}

}  // namespace shunt
