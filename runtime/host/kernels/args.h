// Reading a host kernel's argument list in order, and small things all kernels share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "ir/error.h"
#include "ir/types.h"
#include "runtime/host/host.h"

namespace shunt::host {

class Args {
 public:
  explicit Args(std::span<const HostSlot> slots) : slots_(slots) {}
  ~Args() = default;

  template <class T>
  T* pointer() {
    return static_cast<T*>(next().p);
  }
  const float* floats() { return pointer<const float>(); }
  const int32_t* ints() { return pointer<const int32_t>(); }
  int64_t integer() { return next().i; }
  bool flag() { return next().i != 0; }
  float real() { return static_cast<float>(next().f); }
  const HostExpr* expr() { return next().e; }
  DType dtype() { return static_cast<DType>(next().i); }
  template <class E>
  E choice() {
    return static_cast<E>(next().i);
  }
  /// Call after the last one.
  void done() const {
    SHUNT_CHECK(at_ == slots_.size(), "a host kernel read {} of {} arguments", at_, slots_.size());
  }

 private:
  const HostSlot& next() {
    SHUNT_CHECK(at_ < slots_.size(), "a host kernel needs more than {} arguments", slots_.size());
    return slots_[at_++];
  }
  std::span<const HostSlot> slots_;
  size_t at_ = 0;
};

/// A weight vector: its element type is the checkpoint's.
struct Weight {
  const void* p = nullptr;
  DType dtype = DType::f32;

  explicit operator bool() const { return p != nullptr; }
  const void* at(int64_t element) const {
    return static_cast<const char*>(p) + element * (dtype == DType::f32 ? 4 : 2);
  }
  /// Elements [first, first + n) as float32: in place if they are, else through `buffer`.
  const float* floats(int64_t first, int64_t n, float* buffer) const {
    if (dtype == DType::f32) return static_cast<const float*>(p) + first;
    simd().to_f32(buffer, at(first), dtype, n);
    return buffer;
  }
};

inline Weight read_weight(Args& args) {
  Weight w;
  w.p = args.pointer<const void>();
  w.dtype = args.dtype();
  return w;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// Rows [begin, end) of one chunk, when `rows` are dealt out in chunks of `size`.
struct RowRange {
  int64_t begin, end;
};
inline RowRange chunk_rows(int64_t chunk, int64_t size, int64_t rows) {
  return {chunk * size, std::min(rows, (chunk + 1) * size)};
}
/// Rows a chunk: enough work (in floats touched) to be worth a hand-over, and some chunks a thread
/// for balance.
inline int64_t rows_per_chunk(int64_t rows, int64_t floats_per_row, const ThreadPool& pool) {
  constexpr int64_t kFloats = 16384;  // a few microseconds
  const int64_t least = ceil_div(kFloats, std::max<int64_t>(1, floats_per_row));
  return std::max<int64_t>({1, least, ceil_div(rows, 4 * pool.threads())});
}

/// Calls f(row, worker) for all rows, a chunk at a time.
template <class F>
void for_rows(ThreadPool& pool, int64_t rows, int64_t floats_per_row, F&& f) {
  const int64_t size = rows_per_chunk(rows, floats_per_row, pool);
  pool.parallel_for(ceil_div(rows, size), [&](int64_t chunk, int worker) {
    const RowRange range = chunk_rows(chunk, size, rows);
    for (int64_t row = range.begin; row < range.end; ++row) f(row, worker);
  });
}

}  // namespace shunt::host
