// Arithmetic of exchanges in lines over peer memory: epochs, and where lines lie. Without includes, as
// tests/codegen/peer_protocol_test.cpp compiles it for the host.
#pragma once

namespace shunt {

/// Counters of epochs of a kernel: the largest number of blocks in its grid.
inline constexpr int kPeerEpochs = 256;

/// 1, 2, ..., 2^32 - 1, 2, 3, ...: never 0 (memory that nobody has pushed to), even after odd.
__host__ __device__ constexpr unsigned int epoch_after(unsigned int epoch) {
  return epoch == 0xffffffffu ? 2u : epoch + 1u;
}

/// Bytes of the line of number `line` from source `source` of `sources`, from the start of the
/// buffer. Neighbouring lines of a warp are one run of 512 bytes; where a line lies does not depend
/// on how many there are.
__host__ __device__ constexpr long long line_offset(long long line, int source, int sources,
                                                    unsigned int epoch) {
  return ((((line >> 5) * sources + source) * 2 + (epoch & 1)) * 32 + (line & 31)) * 16;
}

/// Lines of a rank's slice, of which the last ranks may have fewer or none.
__host__ __device__ constexpr long long slice_lines(long long lines, int ranks) {
  return ((lines + ranks - 1) / ranks + 31) / 32 * 32;
}

/// How many lines of `owner`'s slice there are; none if it is not positive.
__host__ __device__ constexpr long long slice_length(long long lines, long long slice, int owner) {
  const long long left = lines - owner * slice;
  return left < slice ? left : slice;
}

/// The line of each source that the launch of `epoch` clears unless it is in use: epochs repeat
/// after 2^32 launches, and what was not used since must not look like new. `bytes` is the
/// buffer's; -1: it has none.
__host__ __device__ constexpr long long line_to_clear(long long bytes, int sources,
                                                      unsigned int epoch) {
  const auto lines = static_cast<unsigned int>(bytes / (32 * sources)) & ~31u;
  return lines == 0 ? -1 : static_cast<long long>((epoch >> 1) % lines);
}

}  // namespace shunt
