// Matrix products: dot products of few rows with a weight as it lies in memory, and a
// register-tiled product of many rows with a packed panel of it. Included by table.h only.
#pragma once

#include "runtime/host/simd/math.h"

namespace shunt::host::SHUNT_ISA {

// ---- few rows: accumulators run along K, so that the weight is read once and never transposed
// ----

// Rows of w at once for `rows` rows of x: as many accumulators as hide the latency and fit the
// registers.
constexpr int dot_width(int rows) { return rows <= (kLanes == 16 ? 2 : 1) ? 8 : 4; }
inline constexpr int kDotRows = kLanes == 16 ? 6 : 3;

template <class Load, int M, int N>
SHUNT_INLINE void dot_block(const float* const* x, const typename Load::T* w, int64_t ldw,
                            int64_t k, float* out, int64_t ldo, int valid) {
  using T = typename Load::T;
  const T* rows[N];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) rows[j] = w + (j < valid ? j : valid - 1) * ldw;
  vf acc[M][N] = {};
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    vf xs[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) xs[m] = load(x[m] + i);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const vf v = Load::load(rows[j] + i);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) acc[m][j] = fma(xs[m], v, acc[m][j]);
    }
  }
  if (i < k) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const vf v = Load::load_part(rows[j] + i, k - i);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) acc[m][j] = fma(load_part(x[m] + i, k - i), v, acc[m][j]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
    for (int j = 0; j < N; j += 4) {
      const v4 sums = sum_lanes(acc[m][j], acc[m][j + 1], acc[m][j + 2], acc[m][j + 3]);
      float* to = out + m * ldo + j;
      if (valid >= j + 4) {
        __builtin_memcpy(to, &sums, sizeof sums);
      } else {
        for (int t = 0; j + t < valid; ++t) to[t] = sums[t];
      }
    }
  }
}

template <class Load, int M>
void dot_rows(const float* const* x, const void* weight, int64_t ldw, int64_t n, int64_t k,
              float* out, int64_t ldo) {
  const auto* w = static_cast<const typename Load::T*>(weight);
  constexpr int kWidth = dot_width(M);
  const float* rows[M];
  for (int m = 0; m < M; ++m) rows[m] = x[m];
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth)
    dot_block<Load, M, kWidth>(rows, w + j * ldw, ldw, k, out + j, ldo, kWidth);
  for (; j < n; j += 4) {
    const int valid = n - j < 4 ? static_cast<int>(n - j) : 4;
    dot_block<Load, M, 4>(rows, w + j * ldw, ldw, k, out + j, ldo, valid);
  }
}

template <class Load>
void dot_typed(const float* const* x, int rows, const void* w, int64_t ldw, int64_t n, int64_t k,
               float* out, int64_t ldo) {
  switch (rows) {
    case 1: return dot_rows<Load, 1>(x, w, ldw, n, k, out, ldo);
    case 2: return dot_rows<Load, 2>(x, w, ldw, n, k, out, ldo);
    case 3: return dot_rows<Load, 3>(x, w, ldw, n, k, out, ldo);
#if SHUNT_LANES == 16
    case 4: return dot_rows<Load, 4>(x, w, ldw, n, k, out, ldo);
    case 5: return dot_rows<Load, 5>(x, w, ldw, n, k, out, ldo);
    case 6: return dot_rows<Load, 6>(x, w, ldw, n, k, out, ldo);
#endif
    default: return;
  }
}

void dot(const float* const* x, int rows, const void* w, DType dtype, int64_t ldw, int64_t n,
         int64_t k, float* out, int64_t ldo) {
  switch (dtype) {
    case DType::bf16: return dot_typed<Bf16>(x, rows, w, ldw, n, k, out, ldo);
    case DType::f16: return dot_typed<F16>(x, rows, w, ldw, n, k, out, ldo);
    default: return dot_typed<F32>(x, rows, w, ldw, n, k, out, ldo);
  }
}

// ---- many rows: panels of the weight, transposed to float32, against rows of x ----

template <class Load>
void pack_typed(float* out, int64_t ld, const typename Load::T* w, int64_t ldw, int64_t kc,
                int64_t n, int64_t width) {
  for (int64_t j = 0; j < width; j += kLanes) {
    for (int64_t i = 0; i < kc; i += kLanes) {
      const int64_t part = kc - i < kLanes ? kc - i : kLanes;
      vf rows[kLanes];
      if (part == kLanes && j + kLanes <= n) {
#pragma GCC unroll 16
        for (int t = 0; t < kLanes; ++t) rows[t] = Load::load(w + (j + t) * ldw + i);
      } else {
        for (int t = 0; t < kLanes; ++t) {
          rows[t] = j + t < n ? (part == kLanes ? Load::load(w + (j + t) * ldw + i)
                                                : Load::load_part(w + (j + t) * ldw + i, part))
                              : splat(0.0f);
        }
      }
      transpose(rows);
      float* to = out + i * ld + j;
      if (part == kLanes) {
#pragma GCC unroll 16
        for (int t = 0; t < kLanes; ++t) store(to + t * ld, rows[t]);
      } else {
        for (int64_t t = 0; t < part; ++t) store(to + t * ld, rows[t]);
      }
    }
  }
}

void pack(float* out, int64_t ld, const void* w, DType dtype, int64_t ldw, int64_t k0, int64_t kc,
          int64_t n, int64_t width) {
  switch (dtype) {
    case DType::bf16:
      return pack_typed<Bf16>(out, ld, static_cast<const uint16_t*>(w) + k0, ldw, kc, n, width);
    case DType::f16:
      return pack_typed<F16>(out, ld, static_cast<const uint16_t*>(w) + k0, ldw, kc, n, width);
    default: return pack_typed<F32>(out, ld, static_cast<const float*>(w) + k0, ldw, kc, n, width);
  }
}

template <int M, int V>
void gemm_tile(const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t ldb, int64_t kc,
               float* c, int64_t ldc, bool accumulate) {
  vf acc[M][V] = {};
  if (accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[i][v] = load(c + i * ldc + v * kLanes);
    }
  }
  for (int64_t kk = 0; kk < kc; ++kk) {
    vf bs[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) bs[v] = load(b + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const vf x = splat(a[i * a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[i][v] = fma(x, bs[v], acc[i][v]);
    }
    a += a_k;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(c + i * ldc + v * kLanes, acc[i][v]);
  }
}

// 8 x 48 fills the 32 registers of AVX-512, 4 x 24 the 16 of AVX2.
inline constexpr int kTileRows = kLanes == 16 ? 8 : 4;
inline constexpr int kPanelVectors = kLanes == 4 ? 2 : 3;

// Panels of four vectors: for few rows, where three would leave too few sums in flight.
inline constexpr int kWideRows = kLanes == 16 ? 4 : 2;

void gemm_wide(const float* a, int64_t a_row, int64_t a_k, int64_t m, const float* b, int64_t ldb,
               int64_t kc, float* c, int64_t ldc, bool accumulate) {
  int64_t i = 0;
  for (; i + kWideRows <= m; i += kWideRows) {
    gemm_tile<kWideRows, 4>(a + i * a_row, a_row, a_k, b, ldb, kc, c + i * ldc, ldc, accumulate);
  }
  for (; i + 2 <= m; i += 2) {
    gemm_tile<2, 4>(a + i * a_row, a_row, a_k, b, ldb, kc, c + i * ldc, ldc, accumulate);
  }
  if (i < m) gemm_tile<1, 4>(a + i * a_row, a_row, a_k, b, ldb, kc, c + i * ldc, ldc, accumulate);
}

template <int V>
void gemm_rows(const float* a, int64_t a_row, int64_t a_k, int64_t m, const float* b, int64_t ldb,
               int64_t kc, float* c, int64_t ldc, bool accumulate) {
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) {
    gemm_tile<kTileRows, V>(a + i * a_row, a_row, a_k, b, ldb, kc, c + i * ldc, ldc, accumulate);
  }
  if (kTileRows == 8 && i + 4 <= m) {
    gemm_tile<4, V>(a + i * a_row, a_row, a_k, b, ldb, kc, c + i * ldc, ldc, accumulate);
    i += 4;
  }
  if (i + 2 <= m) {
    gemm_tile<2, V>(a + i * a_row, a_row, a_k, b, ldb, kc, c + i * ldc, ldc, accumulate);
    i += 2;
  }
  if (i < m) gemm_tile<1, V>(a + i * a_row, a_row, a_k, b, ldb, kc, c + i * ldc, ldc, accumulate);
}

void gemm(const float* a, int64_t a_row, int64_t a_k, int64_t m, const float* b, int64_t ldb,
          int vectors, int64_t kc, float* c, int64_t ldc, bool accumulate) {
  switch (vectors) {
    case 1: return gemm_rows<1>(a, a_row, a_k, m, b, ldb, kc, c, ldc, accumulate);
    case 2: return gemm_rows<2>(a, a_row, a_k, m, b, ldb, kc, c, ldc, accumulate);
#if SHUNT_LANES != 4
    case 3: return gemm_rows<3>(a, a_row, a_k, m, b, ldb, kc, c, ldc, accumulate);
#endif
    case 4: return gemm_wide(a, a_row, a_k, m, b, ldb, kc, c, ldc, accumulate);
    default: return;
  }
}

// ---- attention ----

template <int V>
void softmax_typed(float* s, int64_t keys, float* top, float* total, float* out, int64_t values) {
  constexpr int kWidth = V * kLanes;
  vf best[V], old[V], sums[V] = {};
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) best[v] = old[v] = load(top + v * kLanes);
  for (int64_t j = 0; j < keys; ++j) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) best[v] = max(best[v], load(s + j * kWidth + v * kLanes));
  }
  const vf none = splat(-std::numeric_limits<float>::infinity());
  bool same = true;
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    store(top + v * kLanes, best[v]);
    // A query that has seen no key yet: subtracting its maximum would make NaN of -inf.
    const vf shift = best[v] == none ? splat(0.0f) : best[v];
    const vf rescale = exp_negative(old[v] - shift);
    for (int64_t j = 0; j < keys; ++j) {
      const vf p = exp_negative(load(s + j * kWidth + v * kLanes) - shift);
      store(s + j * kWidth + v * kLanes, p);
      sums[v] += p;
    }
    store(total + v * kLanes, fma(load(total + v * kLanes), rescale, sums[v]));
    old[v] = rescale;
    for (int t = 0; t < kLanes; ++t) same = same && rescale[t] == 1.0f;
  }
  if (same) return;
  for (int64_t d = 0; d < values; ++d) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      store(out + d * kWidth + v * kLanes, load(out + d * kWidth + v * kLanes) * old[v]);
    }
  }
}

void softmax_block(float* s, int64_t keys, int vectors, float* top, float* total, float* out,
                   int64_t values) {
  switch (vectors) {
    case 1: return softmax_typed<1>(s, keys, top, total, out, values);
    case 2: return softmax_typed<2>(s, keys, top, total, out, values);
#if SHUNT_LANES != 4
    case 3: return softmax_typed<3>(s, keys, top, total, out, values);
#endif
    default: return;
  }
}

}  // namespace shunt::host::SHUNT_ISA
