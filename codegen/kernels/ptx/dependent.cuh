// Programmatic dependent launch: a kernel launched with `dependent` may start before its predecessor
// has ended.
// - Every thread calls wait_for_predecessor() before it touches what an earlier kernel wrote, before
//   any global write (an earlier kernel may still read that memory), and before it exits. Weights
//   may be read before it.
// - What was written before the predecessor itself began may be read before the wait, past L1
//   (load_early): every kernel waits before it lets its successor start, so that all but the
//   predecessor have ended by then.
// - A block calls launch_dependents() once it no longer gains from holding the successor back.
// Pointers to activations must not be `__restrict__`: the compiler could then move their loads above
// the wait. Both are no-ops before sm_90.
#pragma once

namespace shunt {

__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Reads what an earlier kernel than the predecessor wrote.
__device__ __forceinline__ int load_early(const int* p) {
  int value;
  asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(value) : "l"(p));
  return value;
}

}  // namespace shunt
