// Entry point: Dequantizer::expand(). Tested by tests/runtime/session/load_test.cpp.
#include "runtime/dequantize.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "ir/error.h"

namespace shunt {

namespace {

std::array<float, 256> table_of(float (*value)(uint8_t)) {
  std::array<float, 256> table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = value(static_cast<uint8_t>(i));
  return table;
}

std::vector<float> scales_from(std::span<const std::byte> bytes, DType dtype) {
  if (dtype != DType::u8) return floats_from(bytes, dtype);
  std::vector<float> out;
  for (const std::byte b : bytes) out.push_back(f32_from_e8m0(static_cast<uint8_t>(b)));
  return out;
}

template <class T>
T rounded(float value, DType dtype) {
  if constexpr (sizeof(T) == sizeof(float)) return value;
  return static_cast<T>(dtype == DType::bf16 ? bf16_from_f32(value) : f16_from_f32(value));
}

/// One row: `payload` begins with the byte of column `first`, `scales` with its group.
template <class T>
void expand_row(const Dequantize& d, const std::byte* payload, const float* scales, int64_t first,
                int64_t columns, std::byte* out) {
  static const std::array<float, 256> f8 = table_of(f32_from_f8e4m3);
  static const std::array<float, 256> e2m1 = table_of(f32_from_e2m1);  // of the low half
  const bool pairs = d.payload == DType::u8;
  const int64_t first_byte = pairs ? first / 2 : first, first_group = first / d.group_columns;
  for (int64_t c = 0; c < columns;) {
    // Columns of one group.
    const int64_t group = (first + c * d.column_step) / d.group_columns;
    const int64_t left = (group + 1) * d.group_columns - (first + c * d.column_step);
    const int64_t end = std::min(columns, c + (left + d.column_step - 1) / d.column_step);
    const float scale = scales[group - first_group];
    for (; c < end; ++c) {
      const int64_t k = first + c * d.column_step;
      const auto byte = static_cast<uint8_t>(payload[(pairs ? k / 2 : k) - first_byte]);
      const float x = pairs ? e2m1[static_cast<size_t>(byte >> 4 * (k % 2)) & 0xf] : f8[byte];
      const T value = rounded<T>(x * scale, d.result);
      std::memcpy(out + c * static_cast<int64_t>(sizeof value), &value, sizeof value);
    }
  }
}

}  // namespace

void Dequantizer::expand(const Read& read, std::span<const FileReader> files, int64_t row,
                         int64_t rows, int64_t column, int64_t columns, std::byte* out) {
  const Dequantize& d = *read.dequantize;
  const FileReader& payload_file = files[static_cast<size_t>(read.file)];
  const FileReader& scale_file = files[static_cast<size_t>(d.scale_file)];
  const int64_t first = d.first_column + column * d.column_step;
  const int64_t last = first + (columns - 1) * d.column_step;
  const int64_t per_byte = d.payload == DType::u8 ? 2 : 1;
  const int64_t first_group = first / d.group_columns;
  payload_.resize(static_cast<size_t>(last / per_byte - first / per_byte + 1));
  scale_bytes_.resize(
      static_cast<size_t>((last / d.group_columns - first_group + 1) * dtype_bytes(d.scale)));
  int64_t group_row = -1;  // whose scales are in scales_
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t n = d.first_row + (row + i) * d.row_step;
    if (n / d.group_rows != group_row) {
      group_row = n / d.group_rows;
      scale_file.read(
          d.scale_offset + group_row * d.scale_pitch + first_group * dtype_bytes(d.scale),
          scale_bytes_);
      scales_ = scales_from(scale_bytes_, d.scale);
    }
    payload_file.read(read.from_offset + n * read.from_pitch + first / per_byte, payload_);
    std::byte* to = out + i * columns * read.element_bytes;
    if (d.result == DType::f32) {
      expand_row<float>(d, payload_.data(), scales_.data(), first, columns, to);
    } else {
      expand_row<uint16_t>(d, payload_.data(), scales_.data(), first, columns, to);
    }
  }
}

}  // namespace shunt
