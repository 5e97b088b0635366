// The vector routines for AVX2 with FMA and F16C. See runtime/host/simd.h; tests:
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
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define SHUNT_ISA avx2
#define SHUNT_LANES 8
#include "runtime/host/simd/table.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
