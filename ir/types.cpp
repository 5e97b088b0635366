// Names, sizes and bit conversions of element types. Tested by tests/ir/types_test.cpp.
#include "ir/types.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "ir/error.h"

namespace shunt {

namespace {
struct DTypeInfo {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};
constexpr DTypeInfo kDTypes[] = {
    {DType::f32, "f32", 4}, {DType::f16, "f16", 2}, {DType::bf16, "bf16", 2},
    {DType::i64, "i64", 8}, {DType::i32, "i32", 4}, {DType::u8, "u8", 1},
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

float f32_from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t f16_from_f32(float value) {
  return std::bit_cast<uint16_t>(static_cast<_Float16>(value));
}

float f32_from_f16(uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }

}  // namespace shunt
