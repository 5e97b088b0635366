// Compiles the row of emit/sample.cpp.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

TEST(SampleNvrtc, Vocabularies) {
  expect_rows_compile(sample_kernels(), R"mir(module @t stage(logical)
dim R in [1, 64]
graph @sample(%small : f32[R, 7], %l : f32[R, 151936], %t : f32[R], %k : i32[R], %p : f32[R], %u : f32[R]) {
  %a = sample %small, %t, %k, %p, %u : i32[R]
  %b = sample %l, %t, %k, %p, %u : i32[R]
  return %a, %b
})mir",
                      {"sample.block"});
}

}  // namespace
}  // namespace shunt::codegen
