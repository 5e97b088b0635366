// Element types of device code and their conversions. Self-contained (no CUDA headers), so that a
// kernel compiles in a fraction of a second; bf16 and f16 are storage types, arithmetic is float.
#pragma once

namespace shunt {

using int8 = signed char;
using uint8 = unsigned char;
using int16 = short;
using uint16 = unsigned short;
using int32 = int;
using uint32 = unsigned int;
using int64 = long long;
using uint64 = unsigned long long;

struct alignas(2) bf16 {
  uint16 bits;
};
struct alignas(2) f16 {
  uint16 bits;
};

template <class A, class B>
inline constexpr bool is_same = false;
template <class A>
inline constexpr bool is_same<A, A> = true;

template <bool kCondition, class A, class B>
struct Conditional {
  using type = A;
};
template <class A, class B>
struct Conditional<false, A, B> {
  using type = B;
};
template <bool kCondition, class A, class B>
using conditional = typename Conditional<kCondition, A, B>::type;

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) {
  return __uint_as_float(static_cast<uint32>(x.bits) << 16);
}
__device__ __forceinline__ float to_float(f16 x) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
}

/// Rounds to nearest even. from_float<float> is the identity.
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
}
template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
  f16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
}

/// Two packed 16-bit values, `low` at the lower address.
template <class T>
__device__ __forceinline__ uint32 pack2(float low, float high) {
  static_assert(is_same<T, bf16> || is_same<T, f16>);
  uint32 result;
  if constexpr (is_same<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  }
  return result;
}

/// The inverse of pack2.
template <class T>
__device__ __forceinline__ float2 unpack2(uint32 bits) {
  static_assert(is_same<T, bf16> || is_same<T, f16>);
  if constexpr (is_same<T, bf16>) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
  } else {
    f16 low{static_cast<uint16>(bits)}, high{static_cast<uint16>(bits >> 16)};
    return make_float2(to_float(low), to_float(high));
  }
}

}  // namespace shunt
