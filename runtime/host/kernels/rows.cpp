// Host kernels that move rows: embedding, gather_rows, copy_2d, transpose. Test:
// tests/runtime/host/rows_test.cpp.
#include <cstring>

#include "runtime/host/kernels/args.h"

namespace shunt::host {

void embedding(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const int32_t* ids = args.ints();
  const Weight table = read_weight(args);  // [V, H]
  const int64_t tokens = args.integer();
  const int64_t vocab = args.integer();
  const int64_t width = args.integer();
  int64_t offset = args.integer();
  offset -= args.integer();       // the first row that this rank has
  const bool part = args.flag();  // of the vocabulary: rows of other ranks are zeros here
  float* out = args.pointer<float>();
  args.done();
  for (int64_t t = 0; t < tokens && !part; ++t) {
    SHUNT_CHECK(ids[t] + offset >= 0 && ids[t] + offset < vocab,
                "embedding of id {} + {}, of {} rows", ids[t], offset, vocab);
  }
  for_rows(pool, tokens, width, [&](int64_t t, int) {
    const int64_t row = ids[t] + offset;
    if (row < 0 || row >= vocab) return void(std::fill_n(out + t * width, width, 0.0f));
    simd().to_f32(out + t * width, table.at(row * width), table.dtype, width);
  });
}

void gather_rows(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* x = args.floats();  // [n, H]
  const int32_t* rows = args.ints();
  const int64_t n = args.integer();
  const int64_t count = args.integer();
  const int64_t width = args.integer();
  float* out = args.pointer<float>();
  args.done();
  for (int64_t r = 0; r < count; ++r)
    SHUNT_CHECK(rows[r] >= 0 && rows[r] < n, "row {} of {}", rows[r], n);
  for_rows(pool, count, width, [&](int64_t r, int) {
    std::memcpy(out + r * width, x + rows[r] * width, static_cast<size_t>(width) * sizeof(float));
  });
}

void copy_2d(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const char* from = args.pointer<const char>();
  from += args.integer();
  const int64_t from_pitch = args.integer();
  char* to = args.pointer<char>();
  to += args.integer();
  const int64_t to_pitch = args.integer();
  const int64_t rows = args.integer();
  const int64_t row_bytes = args.integer();
  args.done();
  if (row_bytes == 0) return;
  for_rows(pool, rows, row_bytes / 4, [&](int64_t row, int) {
    std::memcpy(to + row * to_pitch, from + row * from_pitch, static_cast<size_t>(row_bytes));
  });
}

void transpose(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const char* x = args.pointer<const char>();  // [batch, a, b]
  const int64_t batch = args.integer();
  const int64_t a = args.integer();
  const int64_t b = args.integer();
  const int64_t bytes = args.integer();
  char* out = args.pointer<char>();  // [batch, b, a]
  args.done();
  for_rows(pool, batch * b, a, [&](int64_t row, int) {
    const char* from = x + (row / b * a * b + row % b) * bytes;
    char* to = out + row * a * bytes;
    for (int64_t i = 0; i < a; ++i)
      std::memcpy(to + i * bytes, from + i * b * bytes, static_cast<size_t>(bytes));
  });
}

}  // namespace shunt::host
