// A value of the evaluator: concrete sizes and elements in row-major order. Floats of every dtype
// are held as float32, already rounded to their dtype; integers as int32.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "ir/error.h"
#include "ir/types.h"

namespace shunt::ir {

struct Tensor {
  Type type;               // every size a number
  std::vector<float> f;    // f32, f16, bf16, f8e4m3
  std::vector<int32_t> i;  // i32, u8

  /// Floats are NaN and integers -1 until they are written, so that an undefined row shows.
  static Tensor make(const Type& type) {
    Tensor t{type, {}, {}};
    const auto n = static_cast<size_t>(type.elements().constant());
    if (is_float(type.dtype)) {
      t.f.assign(n, std::numeric_limits<float>::quiet_NaN());
    } else {
      SHUNT_CHECK(type.dtype == DType::i32 || type.dtype == DType::u8,
                  "the evaluator has no values of {}", type.to_string());
      t.i.assign(n, -1);
    }
    return t;
  }

  int64_t size(int axis) const { return type.shape[static_cast<size_t>(axis)].constant(); }
  int64_t elements() const { return static_cast<int64_t>(f.size() + i.size()); }
  int64_t last() const { return type.last().constant(); }
  /// Elements before the last axis: rows of a row-wise op.
  int64_t rows() const { return last() == 0 ? 0 : elements() / last(); }
  const float* row(int64_t r) const { return f.data() + r * last(); }
  float* row(int64_t r) { return f.data() + r * last(); }
};

/// Elements after `axis`: how many lie together for one index of it. Sizes are numbers.
inline int64_t inner_size(const Type& type, int64_t axis) {
  int64_t n = 1;
  for (size_t i = static_cast<size_t>(axis) + 1; i < type.shape.size(); ++i)
    n *= type.shape[i].constant();
  return n;
}

/// `value` as `dtype` holds it.
inline float round_to(DType dtype, float value) {
  if (dtype == DType::bf16) return f32_from_bf16(bf16_from_f32(value));
  if (dtype == DType::f16) return f32_from_f16(f16_from_f32(value));
  return value;
}

}  // namespace shunt::ir
