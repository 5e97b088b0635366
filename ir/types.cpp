// Names, sizes and bit conversions of element types. Tested by tests/ir/types_test.cpp.
#include "ir/types.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "ir/error.h"

namespace shunt {

namespace {
struct DTypeInfo {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};
constexpr DTypeInfo kDTypes[] = {
    {DType::f32, "f32", 4},       {DType::f16, "f16", 2}, {DType::bf16, "bf16", 2},
    {DType::i64, "i64", 8},       {DType::i32, "i32", 4}, {DType::u8, "u8", 1},
    {DType::f8e4m3, "f8e4m3", 1},
};
}  // namespace

std::string_view dtype_name(DType dtype) { return kDTypes[static_cast<int>(dtype)].name; }

int64_t dtype_bytes(DType dtype) { return kDTypes[static_cast<int>(dtype)].bytes; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

Dim Type::elements() const {
  Dim n = 1;
  for (const Dim& d : shape) n = n * d;
  return n;
}

std::string Type::to_string() const {
  std::string text(dtype_name(dtype));
  text += '[';
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) text += ", ";
    text += shape[i].to_string();
  }
  return text + ']';
}

uint16_t bf16_from_f32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float f32_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// By hand: clang 14 has no _Float16 on x86-64.
uint16_t f16_from_f32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;   // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: a multiple of 2^-24, or zero
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(scaled)));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

float f32_from_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f, fraction = bits & 0x3ff;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign == 0 ? magnitude : -magnitude;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | fraction << 13);
}

float f32_from_f8e4m3(uint8_t bits) {
  const int exponent = (bits >> 3) & 0xf, fraction = bits & 7;
  float magnitude = std::ldexp(static_cast<float>(exponent == 0 ? fraction : 8 + fraction),
                               (exponent == 0 ? 1 : exponent) - 10);
  if ((bits & 0x7f) == 0x7f) magnitude = std::numeric_limits<float>::quiet_NaN();
  return (bits & 0x80) == 0 ? magnitude : -magnitude;
}

float f32_from_e2m1(uint8_t bits) {
  constexpr float kMagnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const float magnitude = kMagnitudes[bits & 7];
  return (bits & 8) == 0 ? magnitude : -magnitude;
}

float f32_from_e8m0(uint8_t bits) {
  if (bits == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0f, bits - 127);
}

std::vector<float> floats_from(std::span<const std::byte> bytes, DType dtype) {
  SHUNT_CHECK(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16, "floats of {}",
              dtype_name(dtype));
  std::vector<float> out(bytes.size() / static_cast<size_t>(dtype_bytes(dtype)));
  if (dtype == DType::f32) {
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
    return out;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + i * sizeof bits, sizeof bits);
    out[i] = dtype == DType::bf16 ? f32_from_bf16(bits) : f32_from_f16(bits);
  }
  return out;
}

}  // namespace shunt
