// The vector routines for AVX-512 (F, BW, DQ, VL). See runtime/host/simd.h; tests:
// tests/runtime/host/simd_test.cpp.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "runtime/host/simd.h"

// For what follows only: the headers above must not instantiate code that other files may link to.
#if defined(__clang__)
#pragma clang attribute push(                                                    \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
// GCC 12 warns of _mm512_undefined_ps in its own header.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define SHUNT_ISA avx512
#define SHUNT_LANES 16
#include "runtime/host/simd/table.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
