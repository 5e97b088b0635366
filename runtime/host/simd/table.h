// All vector routines of one instruction set, and their table. Included by avx512.cpp, avx2.cpp and
// baseline.cpp, each within its own target options and namespace; that is why this folder's headers
// include no other header but these.
#pragma once

#include "runtime/host/simd/elementwise.h"
#include "runtime/host/simd/math.h"
#include "runtime/host/simd/matmul.h"
#include "runtime/host/simd/vec.h"

#define SHUNT_NAME(x) #x
#define SHUNT_NAME_OF(x) SHUNT_NAME(x)

namespace shunt::host::SHUNT_ISA {

extern const Simd kSimd;
const Simd kSimd = {
    .name = SHUNT_NAME_OF(SHUNT_ISA),
    .lanes = kLanes,
    .panel_vectors = kPanelVectors,
    .dot_rows = kDotRows,
    .unary = {neg_loop, silu_loop, gelu_loop, gelu_tanh_loop, quick_gelu_loop, relu_loop,
              sigmoid_loop, softplus_loop, tanh_loop, exp_loop, sqrt_loop, rsqrt_loop, abs_loop},
    .binary = {add_loop, sub_loop, mul_loop, div_loop, min_loop, max_loop},
    .silu_mul = silu_mul_loop,
    .axpy = axpy,
    .scale_weight = scale_weight,
    .to_f32 = to_f32,
    .sum = sum,
    .sum_squares = sum_squares,
    .max = max_of,
    .exp_sum = exp_sum,
    .dot = dot,
    .pack = pack,
    .gemm = gemm,
    .softmax_block = softmax_block,
};

}  // namespace shunt::host::SHUNT_ISA
