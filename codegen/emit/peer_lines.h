// What rows share whose kernels exchange lines over peer memory (kernels/peer_lines.cuh). Internal
// to codegen/emit.
#pragma once

#include "codegen/emit/launch.h"

namespace shunt::codegen {

inline constexpr int64_t kLineData = 8;      // bytes of data in a line of 16
inline constexpr int64_t kLineBlocks = 128;  // at most: all are resident at once on any target

/// Bytes of a buffer for so many lines from each of `sources` ranks: line_offset() of
/// kernels/common/peer_layout.cuh.
inline int64_t line_buffer_bytes(int64_t lines, int64_t sources) {
  return round_up(lines, 32) * sources * 2 * (2 * kLineData);
}

}  // namespace shunt::codegen
