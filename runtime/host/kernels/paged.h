// Where rows of paged state lie: token p of sequence s is row p % page_size of page
// block_tables[s][p / page_size].
#pragma once

#include "runtime/host/kernels/args.h"

namespace shunt::host {

struct Pages {
  const int32_t* block_tables = nullptr;  // [S, tables_width]
  int64_t tables_width = 0;
  int64_t page_size = 1;

  /// Row of token `position` of sequence `s`, counted over all pages.
  int64_t row(int64_t s, int64_t position) const {
    const int64_t page = block_tables[s * tables_width + position / page_size];
    return page * page_size + position % page_size;
  }
};

/// Sequence of token t: the s with seq_starts[s] <= t < seq_starts[s + 1]; -1 for a token behind
/// the last sequence.
inline int64_t sequence_of(const int32_t* seq_starts, int64_t sequences, int64_t t) {
  const int32_t* next =
      std::upper_bound(seq_starts, seq_starts + sequences + 1, static_cast<int32_t>(t));
  return next == seq_starts + sequences + 1 ? -1 : next - seq_starts - 1;
}

}  // namespace shunt::host
