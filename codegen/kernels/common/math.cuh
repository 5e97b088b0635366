// The functions an Expr may call (ir/expr.h), in float32. Compiled without fast-math: division,
// sqrt and the subnormals are IEEE, so that results stay within a few ulp of the evaluator's.
#pragma once

#include "common/types.cuh"

namespace shunt {

__device__ __forceinline__ float exp(float x) { return ::expf(x); }
__device__ __forceinline__ float tanh(float x) { return ::tanhf(x); }
__device__ __forceinline__ float sqrt(float x) { return ::sqrtf(x); }
__device__ __forceinline__ float rsqrt(float x) { return ::rsqrtf(x); }
__device__ __forceinline__ float abs(float x) { return ::fabsf(x); }
__device__ __forceinline__ float min(float x, float y) { return ::fminf(x, y); }
__device__ __forceinline__ float max(float x, float y) { return ::fmaxf(x, y); }
__device__ __forceinline__ int min(int x, int y) { return x < y ? x : y; }
__device__ __forceinline__ int max(int x, int y) { return x > y ? x : y; }
__device__ __forceinline__ float clamp(float x, float low, float high) {
  return ::fminf(::fmaxf(x, low), high);
}
__device__ __forceinline__ float relu(float x) { return ::fmaxf(x, 0.0f); }
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + ::expf(-x)); }
/// log(1 + exp(x)), without overflow.
__device__ __forceinline__ float softplus(float x) {
  return ::fmaxf(x, 0.0f) + ::log1pf(::expf(-::fabsf(x)));
}
__device__ __forceinline__ float silu(float x) { return x / (1.0f + ::expf(-x)); }
/// The exact form, 0.5 x (1 + erf(x / sqrt 2)).
__device__ __forceinline__ float gelu(float x) {
  return 0.5f * x * (1.0f + ::erff(x * 0.70710678118654752f));
}
__device__ __forceinline__ float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + ::tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}
__device__ __forceinline__ float quick_gelu(float x) { return x * sigmoid(1.702f * x); }


/// Unsigned integers in the order of the floats; -0 and +0 are one.
__device__ __forceinline__ uint32 ordered(float x) {
  const uint32 bits = __float_as_uint(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace shunt
