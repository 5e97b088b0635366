// Compiles the rows of emit/tensor.cpp: every broadcast kind, odd widths, mixed element types,
// copies along each axis.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

TEST(TensorNvrtc, RowsAndCopies) {
  expect_rows_compile(tensor_kernels(), R"mir(module @t stage(logical)
dim T in [1, 64]
dim R in [1, 8]
param @table : bf16[100, 96]
param @odd : f32[100, 7]
graph @g(%ids : i32[T], %rows : i32[R], %x : f16[T, 96], %h : bf16[T, 8, 7]) {
  %a = embedding %ids, @table : bf16[T, 96]
  %b = embedding %ids, @odd {out = f16, offset = 2} : f16[T, 7]
  %c = gather_rows %x, %rows : f16[R, 96]
  %d = concat %x, %x {axis = 1} : f16[T, 192]
  %e = concat %x, %x {axis = 0} : f16[2*T, 96]
  %f = slice %h {axis = 1, begin = 1, end = 3} : bf16[T, 2, 7]
  %g = slice %h {axis = 2, begin = 1, end = 2} : bf16[T, 8, 1]
  return %a, %b, %c, %d, %e, %f, %g
})mir",
                      {"embedding.row", "gather_rows.row", "concat.copy", "slice.copy"});
}

TEST(TensorNvrtc, Pointwise) {
  expect_rows_compile(tensor_kernels(), R"mir(module @t stage(logical)
dim T in [1, 64]
param @bias : bf16[96]
graph @g(%x : f16[T, 96], %y : f32[T, 96], %s : f32[T, 1], %odd : bf16[T, 7], %h : bf16[T, 4, 16], %n : bf16[T, 4, 1]) {
  %a = pointwise %x, %y {expr = "x0 + x1", out = f16} : f16[T, 96]
  %b = pointwise %x, @bias, %s {expr = "gelu_tanh(x0 + x1) * x2 - 0.5", out = f32} : f32[T, 96]
  %c = pointwise %odd {expr = "max(silu(x0), clamp(x0, -1, 2)) / sqrt(abs(x0) + 1)"} : bf16[T, 7]
  %d = pointwise %h, %n {expr = "x0 * sigmoid(x1)"} : bf16[T, 4, 16]
  %e = glu %x : f16[T, 48]
  %f = glu %x {expr = "gelu(gate) * (up + 1)"} : f16[T, 48]
  return %a, %b, %c, %d, %e, %f
})mir",
                      {"pointwise.vector", "glu.vector"});
}

TEST(TensorNvrtc, Dummy) {
  expect_rows_compile(tensor_kernels(), R"mir(module @t stage(logical)
param @w : bf16[64, 128, 256]
param @b : f32[7]
graph @load() {
  %a = dummy {seed = 3, shape = [64, 128, 256]} : bf16[64, 128, 256]
  store %a, @w
  %b = dummy {seed = 4, mean = 1, dtype = f32, shape = [7]} : f32[7]
  store %b, @b
  return
})mir",
                      {"dummy.counter"});
}

}  // namespace
}  // namespace shunt::codegen
