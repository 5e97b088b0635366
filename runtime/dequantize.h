// Expands part of a quantised matrix while it is read: payload and scales come from their files a
// bounded piece at a time, and only the result is kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/checkpoint/file_reader.h"
#include "runtime/plan/plan.h"

namespace shunt {

/// One thread's buffers. `read.dequantize` must be set, and checked by validate().
class Dequantizer {
 public:
  /// Rows [row, row + rows) and columns [column, column + columns) of the Read, as elements of
  /// `dequantize->result`, packed, to `out`. Throws UserError if a file ends before.
  void expand(const Read& read, std::span<const FileReader> files, int64_t row, int64_t rows,
              int64_t column, int64_t columns, std::byte* out);

 private:
  std::vector<std::byte> payload_, scale_bytes_;
  std::vector<float> scales_;  // of one row of groups, those the columns touch
};

}  // namespace shunt
