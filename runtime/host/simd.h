// The vector routines under the host kernels, compiled three times (AVX-512, AVX2 + FMA, baseline)
// from the same source in runtime/host/simd/, and chosen once by what the machine has.
//
// All arithmetic is float32. No routine reads or writes outside the elements named here, whatever
// the sizes; no alignment is assumed. Strides are in elements.
#pragma once

#include <cstdint>
#include <span>

#include "ir/types.h"

namespace shunt::host {

/// Functions of one number, evaluated over blocks. The order is that of the table of functions in
/// simd/elementwise.h.
enum class Unary : uint8_t {
  neg,
  silu,
  gelu,
  gelu_tanh,
  quick_gelu,
  relu,
  sigmoid,
  softplus,
  tanh,
  exp,
  sqrt,
  rsqrt,
  abs,
  count
};
enum class Binary : uint8_t { add, sub, mul, div, min, max, count };

struct Simd {
  const char* name;   // "avx512", "avx2", "baseline"
  int lanes;          // floats of a vector
  int panel_vectors;  // vectors a gemm panel is wide at most
  int dot_rows;       // rows of x that `dot` takes at most

  // ---- elementwise: out may be an operand ----
  void (*unary[static_cast<int>(Unary::count)])(float* out, const float* x, int64_t n);
  void (*binary[static_cast<int>(Binary::count)])(float* out, const float* a, const float* b,
                                                  int64_t n);
  /// out = silu(gate) * up
  void (*silu_mul)(float* out, const float* gate, const float* up, int64_t n);
  /// out += scale * x
  void (*axpy)(float* out, float scale, const float* x, int64_t n);
  /// out = x * scale * (weight + shift)
  void (*scale_weight)(float* out, const float* x, float scale, const float* weight, float shift,
                       int64_t n);
  void (*to_f32)(float* out, const void* x, DType dtype, int64_t n);

  // ---- reductions ----
  float (*sum)(const float* x, int64_t n);
  float (*sum_squares)(const float* x, float mean, int64_t n);  // of x - mean
  float (*max)(const float* x, int64_t n);                      // -inf for n = 0
  /// out = exp(x - shift); returns the sum.
  float (*exp_sum)(float* out, const float* x, float shift, int64_t n);

  // ---- matrix products ----
  /// out[m * ldo + n] = x[m] . w[n], K long, for `rows` <= dot_rows pointers x and n rows of w.
  /// Reads w once.
  void (*dot)(const float* const* x, int rows, const void* w, DType dtype, int64_t ldw, int64_t n,
              int64_t k, float* out, int64_t ldo);
  /// Panel of a weight, transposed: out[kk * ld + j] = w[j * ldw + k0 + kk] for j < n, 0 up to
  /// `width` (a multiple of lanes).
  void (*pack)(float* out, int64_t ld, const void* w, DType dtype, int64_t ldw, int64_t k0,
               int64_t kc, int64_t n, int64_t width);
  /// c[m, vectors * lanes] (+)= a[m, kc] . b[kc, vectors * lanes]; element (i, kk) of a is a[i *
  /// a_row + kk * a_k]. `vectors` <= panel_vectors, or 4 (slower, but for one or two rows).
  void (*gemm)(const float* a, int64_t a_row, int64_t a_k, int64_t m, const float* b, int64_t ldb,
               int vectors, int64_t kc, float* c, int64_t ldc, bool accumulate);

  // ---- attention, `vectors * lanes` queries side by side ----
  /// One block of online softmax. s[keys, width] are scores (masked ones -inf) and become
  /// probabilities relative to the new maximum; top and total [width] are the running maximum and
  /// sum; out[values, width] is rescaled.
  void (*softmax_block)(float* s, int64_t keys, int vectors, float* top, float* total, float* out,
                        int64_t values);
};

/// The best version this machine runs.
const Simd& simd();
/// Every version this machine runs, best first (tests compare them).
std::span<const Simd* const> all_simd();

}  // namespace shunt::host
