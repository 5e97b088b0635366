// Host kernels rms_norm, layer_norm and add_norm. Test: tests/runtime/host/norm_test.cpp.
#include "runtime/host/kernels/norm.h"

namespace shunt::host {
namespace {

struct Norm {
  HostNorm kind = HostNorm::rms;
  Weight weight, bias;
  float eps = 0;
  float shift = 0;  // 1: the weight is stored minus one
  int64_t n = 0;
  const float* w = nullptr;  // weight and bias as float32, by prepare()
  const float* b = nullptr;

  /// Converts the weights once a call rather than once a row.
  void prepare(ThreadPool& pool) {
    auto* buffer =
        static_cast<float*>(pool.scratch(-1, static_cast<size_t>(2 * n) * sizeof(float)));
    w = weight.floats(0, n, buffer);
    if (bias) b = bias.floats(0, n, buffer + n);
  }

  void row(float* out, const float* x) const {
    if (kind == HostNorm::rms) return rms_norm_row(out, x, w, shift, eps, n);
    const Simd& v = simd();
    const float mean = v.sum(x, n) / static_cast<float>(n);
    const float variance = v.sum_squares(x, mean, n) / static_cast<float>(n);
    const float scale = 1.0f / std::sqrt(variance + eps);
    for (int64_t i = 0; i < n; ++i) out[i] = (x[i] - mean) * scale * (w[i] + shift);
    if (b != nullptr) v.binary[static_cast<int>(Binary::add)](out, out, b, n);
  }
};

/// The arguments both norms end with, and their rows. `passes`: over a row of x, to size the
/// chunks.
void norm_rows(Args& args, Norm& norm, const float* x, int64_t passes, ThreadPool& pool) {
  const int64_t rows = args.integer();
  norm.n = args.integer();
  norm.eps = args.real();
  norm.shift = args.flag() ? 1.0f : 0.0f;
  float* out = args.pointer<float>();
  args.done();
  norm.prepare(pool);
  for_rows(pool, rows, passes * norm.n,
           [&](int64_t r, int) { norm.row(out + r * norm.n, x + r * norm.n); });
}

}  // namespace

void rms_norm(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  Norm norm;
  const float* x = args.floats();
  norm.weight = read_weight(args);
  norm_rows(args, norm, x, 2, pool);
}

void layer_norm(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  Norm norm;
  norm.kind = HostNorm::layer;
  const float* x = args.floats();
  norm.weight = read_weight(args);
  norm.bias = read_weight(args);
  norm_rows(args, norm, x, 3, pool);
}

void add_norm(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  Norm norm;
  const float* x = args.floats();
  const float* y = args.floats();
  norm.weight = read_weight(args);
  norm.bias = read_weight(args);
  const int64_t rows = args.integer();
  norm.n = args.integer();
  norm.kind = args.choice<HostNorm>();
  norm.eps = args.real();
  norm.shift = args.flag() ? 1.0f : 0.0f;
  float* sum = args.pointer<float>();
  float* out = args.pointer<float>();
  args.done();
  norm.prepare(pool);
  for_rows(pool, rows, 4 * norm.n, [&](int64_t r, int) {
    const int64_t at = r * norm.n;
    simd().binary[static_cast<int>(Binary::add)](sum + at, x + at, y + at, norm.n);
    norm.row(out + at, sum + at);
  });
}

}  // namespace shunt::host
