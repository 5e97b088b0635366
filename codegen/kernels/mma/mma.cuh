// Tensor cores and asynchronous copies as of sm_80: cp.async, ldmatrix, mma.sync m16n8k16.
#pragma once

#include "common/types.cuh"

namespace shunt {

/// Address of shared memory as PTX takes it.
__device__ __forceinline__ uint32 smem_address(const void* p) {
  return static_cast<uint32>(__cvta_generic_to_shared(p));
}

/// Copies 16 bytes from global to shared memory, past L1; writes zeros instead, reading nothing, if
/// !valid (`from` must be an address all the same). Complete after commit_copies() and
/// wait_copies().
__device__ __forceinline__ void copy16_async(uint32 to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :
               : "r"(to), "l"(from), "r"(bytes)
               : "memory");
}
/// The same for an address that is valid.
__device__ __forceinline__ void copy16_async(uint32 to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;"
               :
               : "r"(to), "l"(from)
               : "memory");
}
/// Closes the group of copies issued since the last one; an empty group is fine.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most kPending of this thread's newest groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(kPending) : "memory");
}

/// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
/// Register j of lane l gets elements (l / 4, 2 (l % 4)) and (l / 4, 2 (l % 4) + 1) of matrix j.
__device__ __forceinline__ void load_matrices(uint32 (&to)[4], uint32 row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row_address)
               : "memory");
}

/// sum[16, 8] += a[16, 16] . b[8, 16]^T for T bf16 or f16. Lane l holds: of `sum`, (l/4, 2(l%4) +
/// {0, 1}) and the same 8 rows down; of `a`, in 8x8 quarters (top left, bottom left, top right,
/// bottom right), and of `b`, in 8x8 halves (left, right), what load_matrices puts there.
template <class T>
__device__ __forceinline__ void mma_16x8x16(float (&sum)[4], const uint32 (&a)[4], uint32 b0,
                                            uint32 b1) {
  if constexpr (is_same<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(is_same<T, f16>);
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

}  // namespace shunt
