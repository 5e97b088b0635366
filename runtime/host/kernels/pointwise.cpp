// Host kernels pointwise and glu: an expression over rows. Test:
// tests/runtime/host/pointwise_test.cpp.
#include "runtime/host/kernels/epilogue.h"

namespace shunt::host {

void pointwise(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  Epilogue e;
  e.expr = args.expr();
  int64_t rows = args.integer();
  int64_t n = args.integer();
  float* out = args.pointer<float>();
  read_extras(args, e);
  // Operands of one shape are one long row, dealt out in pieces.
  bool flat = true;
  for (int i = 0; i < e.count; ++i)
    flat = flat && e.extras[static_cast<size_t>(i)].mode == HostOperandMode::full;
  if (flat) {
    const int64_t total = rows * n;
    n = std::min<int64_t>(total, 2048);
    rows = n == 0 ? 0 : ceil_div(total, n);
    e.columns = n;
    for_rows(pool, rows, n, [&](int64_t row, int) {
      e.apply(row, 0, 0, std::min(n, total - row * n), nullptr, nullptr, out + row * n);
    });
    return;
  }
  e.columns = n;
  for_rows(pool, rows, n,
           [&](int64_t row, int) { e.apply(row, 0, 0, n, nullptr, nullptr, out + row * n); });
}

void glu(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  Epilogue e;
  e.expr = args.expr();
  const float* x = args.floats();  // [rows, 2n]: gate, then up
  const int64_t rows = args.integer();
  const int64_t n = args.integer();
  float* out = args.pointer<float>();
  args.done();
  e.columns = n;
  for_rows(pool, rows, 2 * n, [&](int64_t row, int) {
    e.apply(row, 0, 0, n, x + row * 2 * n, x + row * 2 * n + n, out + row * n);
  });
}

}  // namespace shunt::host
