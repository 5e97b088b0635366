// Short vectors of elements, moved in pieces of up to 16 bytes, and dynamic shared memory.
#pragma once

#include "common/types.cuh"

namespace shunt {

/// N elements, aligned for the widest move that fits (16 bytes at most).
template <class T, int N>
struct alignas(sizeof(T) * N >= 16 ? 16 : sizeof(T) * N) Vec {
  static_assert((N & (N - 1)) == 0, "a power of two");
  T at[N];
  __device__ __forceinline__ T& operator[](int i) { return at[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return at[i]; }
};

namespace detail {
/// The register type that holds `kBytes`, and how many of them a Vec needs.
template <int kBytes>
struct Word;
template <>
struct Word<16> {
  using type = uint4;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<4> {
  using type = uint32;
};
template <>
struct Word<2> {
  using type = uint16;
};
template <>
struct Word<1> {
  using type = uint8;
};
template <class T, int N>
struct Words {
  static constexpr int kBytes = sizeof(T) * N >= 16 ? 16 : sizeof(T) * N;
  static constexpr int kCount = sizeof(T) * N / kBytes;
  using type = typename Word<kBytes>::type;
};

__device__ __forceinline__ uint4 load_nc(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 load_nc(const uint2* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p));
  return v;
}
__device__ __forceinline__ uint32 load_nc(const uint32* p) {
  uint32 v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
__device__ __forceinline__ uint16 load_nc(const uint16* p) {
  uint16 v;
  asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(p));
  return v;
}
}  // namespace detail

/// Reads N elements. `p` must be aligned to alignof(Vec<T, N>); any address space.
template <int N, class T>
__device__ __forceinline__ Vec<T, N> load(const T* p) {
  return *reinterpret_cast<const Vec<T, N>*>(p);
}

/// Reads N elements of global memory that no running kernel writes (weights), without keeping them
/// in L1. Stays where it is written: not moved across other volatile statements.
template <int N, class T>
__device__ __forceinline__ Vec<T, N> load_stream(const T* p) {
  using W = detail::Words<T, N>;
  Vec<T, N> result;
#pragma unroll
  for (int i = 0; i < W::kCount; ++i) {
    reinterpret_cast<typename W::type*>(&result)[i] =
        detail::load_nc(reinterpret_cast<const typename W::type*>(p) + i);
  }
  return result;
}

template <int N, class T>
__device__ __forceinline__ void store(T* p, const Vec<T, N>& v) {
  *reinterpret_cast<Vec<T, N>*>(p) = v;
}

template <class T, int N>
__device__ __forceinline__ Vec<T, N> zero_vec() {
  using W = detail::Words<T, N>;
  Vec<T, N> result;
#pragma unroll
  for (int i = 0; i < W::kCount; ++i) {
    reinterpret_cast<typename W::type*>(&result)[i] = typename W::type{};
  }
  return result;
}

template <class T, int N>
__device__ __forceinline__ Vec<float, N> to_float(const Vec<T, N>& v) {
  Vec<float, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result[i] = to_float(v[i]);
  return result;
}

template <class T, int N>
__device__ __forceinline__ Vec<T, N> from_float(const Vec<float, N>& v) {
  Vec<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result[i] = from_float<T>(v[i]);
  return result;
}

/// The block's dynamic shared memory, 128-byte aligned.
template <class T>
__device__ __forceinline__ T* dynamic_smem() {
  extern __shared__ __align__(128) uint8 shunt_dynamic_smem[];
  return reinterpret_cast<T*>(shunt_dynamic_smem);
}

}  // namespace shunt
