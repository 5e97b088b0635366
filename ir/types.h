// Element types, and the type of a value: an element type and symbolic sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/dim.h"

namespace shunt {

enum class DType : uint8_t { f32, f16, bf16, i64, i32, u8, f8e4m3 };

/// "f32", "bf16", ... as written in .mir text and plan.json.
std::string_view dtype_name(DType dtype);
/// The inverse of dtype_name; nullopt for an unknown name.
std::optional<DType> parse_dtype(std::string_view name);
/// Bytes of one element.
int64_t dtype_bytes(DType dtype);
inline bool is_float(DType d) {
  return d == DType::f32 || d == DType::f16 || d == DType::bf16 || d == DType::f8e4m3;
}

/// Memory that lives across steps holds a row a token (in pages of a block table), or a row a
/// sequence.
enum class StateKind : uint8_t { paged, slot };

/// bf16[T, 2048]. A rank-0 shape is a scalar.
struct Type {
  DType dtype = DType::f32;
  std::vector<Dim> shape;

  int rank() const { return static_cast<int>(shape.size()); }
  /// The last size, which every row-wise op works on. Requires rank() > 0.
  const Dim& last() const { return shape.back(); }
  /// Number of elements as a Dim. At most one factor may be symbolic (InternalError otherwise).
  Dim elements() const;
  Dim bytes() const { return elements() * dtype_bytes(dtype); }
  std::string to_string() const;
  bool operator==(const Type&) const = default;
};

/// IEEE and bfloat16 conversions, round to nearest even. Bits, not values: usable without compiler
/// support.
uint16_t bf16_from_f32(float value);
float f32_from_bf16(uint16_t bits);
uint16_t f16_from_f32(float value);
float f32_from_f16(uint16_t bits);
/// Elements that checkpoints store and ops never compute on: f8e4m3 (no infinities; NaN is all ones
/// but the sign), a e2m1 (the low four bits: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and a sign), and the
/// exponent e8m0 (2^(bits - 127); 255 is NaN).
float f32_from_f8e4m3(uint8_t bits);
float f32_from_e2m1(uint8_t bits);
float f32_from_e8m0(uint8_t bits);
/// Stored elements of f32, bf16 or f16 as float32; `bytes` need not be aligned.
std::vector<float> floats_from(std::span<const std::byte> bytes, DType dtype);

}  // namespace shunt
