// Compiles the rows of emit/rope.cpp over head sizes, norms, pairings and element types.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

std::string module_text(const char* type, const char* state, int heads, int kv_heads, int dim,
                        int rotary) {
  return fmt::format(
      "module @t stage(logical)\ndim S in [1, 8]\ndim T in [1, 512]\n"
      "state @k : {1}[{3}, {4}]\nstate @v : {1}[{3}, {4}]\n"
      "param @f : f32[{5}]\nparam @n : bf16[{4}]\nparam @nq : bf16[{6}]\nparam @nk : f32[{7}]\n"
      "graph @step(%qkv : {0}[T, {8}], %q : {0}[T, {2}, {4}], %kv : {0}[T, {3}, {4}], %p : i32[T], "
      "%s : i32[S+1], %b : i32[S, 16]) {{\n"
      "  kv_append %kv, %kv, %p, %s, %b, @k, @v\n"
      "  %r = rope %q, %p, @f : {0}[T, {2}, {4}]\n"
      "  %i = rope %q, %p, @f {{interleaved = true, scale = 1.5}} : {0}[T, {2}, {4}]\n"
      "  %a = rope_append %qkv, %p, @f, none, none, %s, %b, @k, @v {{heads = {2}, kv_heads = {3}, "
      "head_dim = {4}}}"
      " : {0}[T, {2}, {4}]\n"
      "  %c = rope_append %qkv, %p, none, @n, @n, %s, %b, @k, @v {{heads = {2}, kv_heads = {3}, "
      "head_dim = {4}, "
      "norm = head, plus_one = true}} : {0}[T, {2}, {4}]\n"
      "  %d = rope_append %qkv, %p, @f, @nq, @nk, %s, %b, @k, @v {{heads = {2}, kv_heads = {3}, "
      "head_dim = {4}, "
      "norm = full, eps = 1e-06, interleaved = true}} : {0}[T, {2}, {4}]\n"
      "  return %r, %i, %a, %c, %d\n}}\n",
      type, state, heads, kv_heads, dim, rotary / 2, heads * dim, kv_heads * dim,
      (heads + 2 * kv_heads) * dim);
}

TEST(RopeNvrtc, SizesAndTypes) {
  const std::string modules[] = {
      module_text("bf16", "bf16", 32, 4, 128, 128), module_text("f16", "f16", 4, 2, 64, 32),
      module_text("f32", "f32", 4, 2, 64, 64),      module_text("bf16", "f32", 4, 4, 8, 8),
      module_text("bf16", "bf16", 6, 2, 80, 20),    module_text("f16", "bf16", 3, 1, 7, 6),
      module_text("bf16", "bf16", 8, 4, 256, 256),
  };
  for (const std::string& text : modules) {
    SCOPED_TRACE(text);
    for (bool decode : {false, true}) {
      expect_rows_compile(rope_kernels(), text, {"kv_append.row", "rope.head", "rope_append.head"},
                          decode);
    }
  }
}

}  // namespace
}  // namespace shunt::codegen
