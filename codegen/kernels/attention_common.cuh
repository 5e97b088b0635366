// What the attention kernels share: which keys a query sees, scores in base 2, and the tensor-core
// and copy instructions they use.
//
// Config members used here: kScale, kWindow, kChunk (0: none), kSoftcap (0: none), kHasSinks,
// kPageSize, kEncoder (encoder_attention: keys are the batch's own tokens, not pages, and a token
// sees all of its sequence).
#pragma once

#include "common/common.cuh"
#include "common/paged.cuh"

namespace shunt::attention {

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }

/// 2^x, to about 2 ulp; 0 for minus infinity.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

inline constexpr float kLog2E = 1.4426950408889634f;

/// The first key that a query at `position` sees.
template <class C>
__device__ __forceinline__ int first_key(int position) {
  int first = 0;
  if constexpr (C::kWindow > 0) first = ::max(first, position - C::kWindow + 1);
  if constexpr (C::kChunk > 0) first = ::max(first, position / C::kChunk * C::kChunk);
  return first;
}

/// Which row of K and V holds a key of one sequence.
template <class C>
struct KeyRows {
  const int* table;  // the sequence's pages; unused by an encoder
  int start;         // the sequence's first token in the batch

  __device__ __forceinline__ int64 operator()(int key) const {
    if constexpr (C::kEncoder) {
      return start + key;
    } else {
      return paged_row<C::kPageSize>(table, key);
    }
  }
};

struct TileIndex {
  int sequence;  // -1: no such tile
  int tile;
};

/// Where tile number `index` of kRows rows is, rows being the kGroup query heads of each token of a
/// sequence. Every warp of the block comes to the same answer.
template <int kGroup, int kRows>
__device__ __forceinline__ TileIndex find_tile(const int* seq_starts, int sequences, int index) {
  const int lane = lane_index();
  for (int base = 0; base < sequences; base += 32) {
    const int s = base + lane;
    const int tiles =
        s < sequences ? ceil_div((seq_starts[s + 1] - seq_starts[s]) * kGroup, kRows) : 0;
    int upto = tiles;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(kFullWarp, upto, step);
      if (lane >= step) upto += other;
    }
    const unsigned int beyond = __ballot_sync(kFullWarp, upto > index);
    if (beyond != 0) {
      const int found = __ffs(beyond) - 1;
      const int count = __shfl_sync(kFullWarp, tiles, found);
      const int local = index - (__shfl_sync(kFullWarp, upto, found) - count);
      return {base + found, count - 1 - local};  // the longest tiles first
    }
    index -= __shfl_sync(kFullWarp, upto, 31);
  }
  return {-1, 0};
}

/// A score in units of log 2, so that the softmax needs exp2 only.
template <class C>
__device__ __forceinline__ float score(float dot) {
  if constexpr (C::kSoftcap > 0) {
    return C::kSoftcap * ::tanhf(dot * (C::kScale / C::kSoftcap)) * kLog2E;
  } else {
    return dot * (C::kScale * kLog2E);
  }
}

/// exp2(x - base), where a base of minus infinity (nothing seen yet) counts as 0.
__device__ __forceinline__ float exp2_from(float x, float base) {
  return exp2_fast(x - (base == minus_infinity() ? 0.0f : base));
}

/// What a row's accumulator is multiplied by at the end: 1 / sum, with the head's sink as one more
/// term of the sum.
template <class C, class Sink>
__device__ __forceinline__ float final_scale(float maximum, float sum, const Sink* sinks,
                                             int head) {
  if constexpr (C::kHasSinks) {
    const float sink = to_float(sinks[head]) * kLog2E;
    const float top = ::fmaxf(maximum, sink);
    const float total = sum * exp2_fast(maximum - top) + exp2_fast(sink - top);
    return exp2_fast(maximum - top) / total;
  } else {
    return sum > 0 ? 1.0f / sum : 0.0f;
  }
}

/// c[16, 8] += a[16, 16] . b[16, 8], float32 accumulation.
template <class T>
__device__ __forceinline__ void mma_16x8x16(float (&c)[4], uint32 a0, uint32 a1, uint32 a2,
                                            uint32 a3, uint32 b0, uint32 b1) {
  if constexpr (is_same<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

/// Transposes an 8x8 matrix of 16-bit elements held by a warp (lane 4*r + c: row r, columns 2c and
/// 2c + 1).
__device__ __forceinline__ uint32 transpose_8x8(uint32 x) {
  uint32 y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

/// Four 8x8 matrices from shared memory; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(uint32 (&r)[4], const void* row) {
  const uint32 address = static_cast<uint32>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32 (&r)[4], const void* row) {
  const uint32 address = static_cast<uint32>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// Starts the copy of 16 bytes from global to shared memory.
__device__ __forceinline__ void copy_async_16(void* to, const void* from) {
  const uint32 address = static_cast<uint32>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
/// Brings kBytes from `from` on to the L2 cache.
template <int kBytes>
__device__ __forceinline__ void prefetch_l2(const void* from) {
#pragma unroll
  for (int i = 0; i < kBytes; i += 128) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(from) + i) : "memory");
  }
}

}  // namespace shunt::attention
