// Paged state: where the row of a token lives, and which sequence a token belongs to.
#pragma once

#include "common/types.cuh"

namespace shunt {

/// The true value of a dim inside a graph bucket: `*true_size` if there is one, else the size of
/// the launch.
__device__ __forceinline__ int true_size(const int* true_size, int size) {
  return true_size != nullptr ? ::min(*true_size, size) : size;
}

/// Index of the row that holds position `position` of the sequence whose block table is `table`.
template <int kPageSize>
__device__ __forceinline__ int64 paged_row(const int* table, int position) {
  return static_cast<int64>(table[position / kPageSize]) * kPageSize + position % kPageSize;
}

/// The sequence of `token`: the last s < sequences with seq_starts[s] <= token. Empty sequences are
/// skipped, since the one that holds the token starts at or after them.
__device__ __forceinline__ int find_sequence(const int* seq_starts, int sequences, int token) {
  int low = 0, high = sequences;  // seq_starts[low] <= token < seq_starts[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (seq_starts[middle] <= token) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace shunt
