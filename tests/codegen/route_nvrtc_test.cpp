// Compiles the rows of emit/route.cpp: few and many routes and experts, with and without a
// residual.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

TEST(RouteNvrtc, SortAndCombine) {
  expect_rows_compile(route_kernels(), R"mir(module @t stage(logical)
dim T in [1, 64]
graph @g(%ids : i32[T, 8], %w : f32[T, 8], %y : bf16[8*T, 2048], %h : bf16[T, 2048], %odd : f32[8*T, 33], %one : i32[T, 1], %w1 : f32[T, 1], %z : f16[T, 96]) {
  %a, %b = route_sort %ids {experts = 128} : i32[129], i32[8*T]
  %c, %d = route_sort %ids {experts = 1024} : i32[1025], i32[8*T]
  %e = combine_routes %y, %w, %ids, %h : bf16[T, 2048]
  %f = combine_routes %odd, %w, %ids, none : f32[T, 33]
  %g = combine_routes %z, %w1, %one, none : f16[T, 96]
  return %a, %b, %c, %d, %e, %f, %g
})mir",
                      {"route_sort.block", "route_sort.blocks", "combine_routes.row"});
}

TEST(RouteNvrtc, ManyRoutes) {
  expect_rows_compile(route_kernels(), R"mir(module @t stage(logical)
dim T in [1, 8192]
graph @g(%ids : i32[T, 8]) {
  %a, %b = route_sort %ids {experts = 64} : i32[65], i32[8*T]
  return %a, %b
})mir",
                      {"route_sort.blocks"});
}

}  // namespace
}  // namespace shunt::codegen
