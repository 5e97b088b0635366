// The vector type of one instruction set, by GCC vector extensions where they suffice. Included by
// the three .cpp files of this folder only (through table.h), with SHUNT_ISA and SHUNT_LANES
// defined; includes nothing itself (see there).
#pragma once

#define SHUNT_INLINE static inline __attribute__((always_inline))

namespace shunt::host::SHUNT_ISA {

inline constexpr int kLanes = SHUNT_LANES;
typedef float vf __attribute__((vector_size(SHUNT_LANES * 4)));
typedef int32_t vi __attribute__((vector_size(SHUNT_LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(SHUNT_LANES * 4)));
typedef uint16_t vh
    __attribute__((vector_size(SHUNT_LANES * 2)));  // half as wide: one 16-bit number a lane

SHUNT_INLINE vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
SHUNT_INLINE void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
/// The first n lanes, 0 < n < kLanes; the others 0.
SHUNT_INLINE vf load_part(const float* p, int64_t n) {
  float lanes[kLanes] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
  return load(lanes);
}
SHUNT_INLINE void store_part(float* p, vf v, int64_t n) {
  float lanes[kLanes];
  store(lanes, v);
  __builtin_memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}

SHUNT_INLINE vf splat(float x) {
#if SHUNT_LANES == 16
  return _mm512_set1_ps(x);
#elif SHUNT_LANES == 8
  return _mm256_set1_ps(x);
#else
  return vf{x, x, x, x};
#endif
}

/// a * b + c
SHUNT_INLINE vf fma(vf a, vf b, vf c) {
#if SHUNT_LANES == 16
  return _mm512_fmadd_ps(a, b, c);
#elif SHUNT_LANES == 8
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

SHUNT_INLINE vf sqrt(vf x) {
#if SHUNT_LANES == 16
  return _mm512_sqrt_ps(x);
#elif SHUNT_LANES == 8
  return _mm256_sqrt_ps(x);
#else
  return vf{std::sqrt(x[0]), std::sqrt(x[1]), std::sqrt(x[2]), std::sqrt(x[3])};
#endif
}

SHUNT_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
SHUNT_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
SHUNT_INLINE vf abs(vf x) { return reinterpret_cast<vf>(reinterpret_cast<vi>(x) & 0x7fffffff); }

SHUNT_INLINE vu widen(vh bits) {  // __builtin_convertvector, which GCC 12 does in halves
#if SHUNT_LANES == 16
  return reinterpret_cast<vu>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(bits)));
#elif SHUNT_LANES == 8
  return reinterpret_cast<vu>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(bits)));
#else
  return __builtin_convertvector(bits, vu);
#endif
}
SHUNT_INLINE vf from_bf16(vh bits) { return reinterpret_cast<vf>(widen(bits) << 16); }
SHUNT_INLINE vf from_f16(vh bits) {
#if SHUNT_LANES == 16
  return _mm512_cvtph_ps(reinterpret_cast<__m256i>(bits));
#elif SHUNT_LANES == 8
  return _mm256_cvtph_ps(reinterpret_cast<__m128i>(bits));
#else
  const vu wide = widen(bits);
  const vu magnitude = (wide & 0x7fff) << 13;
  // Multiplying by 2^112 moves the exponent bias and normalises subnormals; infinities and NaNs are
  // set by hand.
  const vf scaled = reinterpret_cast<vf>(magnitude) * 0x1p112f;
  const vu special = reinterpret_cast<vu>((wide & 0x7c00) == 0x7c00);
  const vu value = reinterpret_cast<vu>(scaled) | (special & 0x7f800000);
  return reinterpret_cast<vf>(value | ((wide & 0x8000) << 16));
#endif
}

// Element types of weights: how a vector, or part of one, becomes float32.
struct F32 {
  using T = float;
  SHUNT_INLINE vf load(const T* p) { return SHUNT_ISA::load(p); }
  SHUNT_INLINE vf load_part(const T* p, int64_t n) { return SHUNT_ISA::load_part(p, n); }
};
struct Bf16 {
  using T = uint16_t;
  SHUNT_INLINE vf load(const T* p) {
    vh bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return from_bf16(bits);
  }
  SHUNT_INLINE vf load_part(const T* p, int64_t n) {
    T lanes[kLanes] = {};
    __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
    return load(lanes);
  }
};
struct F16 {
  using T = uint16_t;
  SHUNT_INLINE vf load(const T* p) {
    vh bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return from_f16(bits);
  }
  SHUNT_INLINE vf load_part(const T* p, int64_t n) {
    T lanes[kLanes] = {};
    __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
    return load(lanes);
  }
};

// a0 b0 a1 b1 ... of the low and of the high halves of two vectors.
SHUNT_INLINE vf interleave_low(vf a, vf b) {
#if SHUNT_LANES == 16
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif SHUNT_LANES == 8
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
SHUNT_INLINE vf interleave_high(vf a, vf b) {
#if SHUNT_LANES == 16
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                 31);
#elif SHUNT_LANES == 8
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

/// Rows to columns. Interleaving row i with row i + half, log2(lanes) times over, is a
/// transposition.
SHUNT_INLINE void transpose(vf (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
    vf next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

typedef float v4 __attribute__((vector_size(16)));

SHUNT_INLINE v4 fold_to_4(vf x) {
#if SHUNT_LANES == 16
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif SHUNT_LANES == 8
  return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
#else
  return x;
#endif
}

/// The sums of the lanes of a, b, c and d.
SHUNT_INLINE v4 sum_lanes(vf a, vf b, vf c, vf d) {
  const vf ac = interleave_low(a, c) + interleave_high(a, c);
  const vf bd = interleave_low(b, d) + interleave_high(b, d);
  return fold_to_4(interleave_low(ac, bd) + interleave_high(ac, bd));
}
SHUNT_INLINE float sum_lanes(vf x) {
  const v4 s = fold_to_4(x);
  return (s[0] + s[2]) + (s[1] + s[3]);
}
SHUNT_INLINE float max_lanes(vf x) {
  float top = x[0];
  for (int i = 1; i < kLanes; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

}  // namespace shunt::host::SHUNT_ISA
