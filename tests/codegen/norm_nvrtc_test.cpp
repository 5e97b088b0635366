// Compiles the rows of emit/norm.cpp over widths (vectors, odd, a warp a row, a block a row) and
// element types.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

TEST(NormNvrtc, EveryWidthAndType) {
  std::string ops, params;
  int n = 0;
  for (int width : {7, 128, 2048, 8192}) {
    for (const char* x : {"bf16", "f16", "f32"}) {
      for (const char* w : {"bf16", "f32"}) {
        if (width != 2048 && std::string(w) == "f32") continue;
        ++n;
        params += fmt::format("param @w{} : {}[{}]\n", n, w, width);
        ops += fmt::format(
            "graph @g{0}(%x : {1}[T, {2}], %y : f32[T, {2}]) {{\n"
            "  %a = rms_norm %x, @w{0} {{eps = 1e-06}} : {1}[T, {2}]\n"
            "  %b = layer_norm %x, @w{0}, @w{0} : {1}[T, {2}]\n"
            "  %c = layer_norm %x, @w{0}, none : {1}[T, {2}]\n"
            "  %d, %e = add_norm %x, %y, @w{0}, none {{plus_one = true}} : {1}[T, {2}], {1}[T, "
            "{2}]\n"
            "  %f, %g = add_norm %x, %y, @w{0}, @w{0} {{kind = layer}} : {1}[T, {2}], {1}[T, {2}]\n"
            "  return %a, %b, %c, %d, %e, %f, %g\n}}\n",
            n, x, width);
      }
    }
  }
  expect_rows_compile(norm_kernels(), "module @t stage(logical)\ndim T in [1, 64]\n" + params + ops,
                      {"rms_norm.row", "layer_norm.row", "add_norm.row"});
}

TEST(NormNvrtc, HeadsAreRows) {
  expect_rows_compile(norm_kernels(), R"mir(module @t stage(logical)
dim T in [1, 64]
param @w : bf16[128]
graph @g(%x : bf16[T, 32, 128]) {
  %a = rms_norm %x, @w : bf16[T, 32, 128]
  return %a
})mir",
                      {"rms_norm.row"});
}

}  // namespace
}  // namespace shunt::codegen
