// Compiles the rows of emit/gate.cpp: score functions, groups, biases, forced routing, few and many
// tokens.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

TEST(GateNvrtc, TopkGate) {
  expect_rows_compile(gate_kernels(), R"mir(module @t stage(logical)
dim T in [1, 64]
param @bias : bf16[256]
graph @a(%l : f32[T, 8], %m : f32[T, 128], %n : f32[T, 256], %big : f32[T, 1024], %forced : i32[T, 8]) {
  %a0, %a1 = topk_gate %l, none, none {k = 2, norm = sum} : f32[T, 2], i32[T, 2]
  %b0, %b1 = topk_gate %m, none, %forced {k = 8, norm = sum} : f32[T, 8], i32[T, 8]
  %c0, %c1 = topk_gate %n, @bias, %forced {k = 8, score = sigmoid, norm = sum, norm_eps = 1e-20, scale = 2.5, groups = 8, keep_groups = 4, group_score = top2_sum} : f32[T, 8], i32[T, 8]
  %x0, %x1 = topk_gate %n, none, none {k = 2, score = sparse_mixer, jitter = 0.02} : f32[T, 2], i32[T, 2]
  %y0, %y1 = topk_gate %n, none, none {k = 2, norm = sum, norm_min = 1e-12} : f32[T, 2], i32[T, 2]
  %d0, %d1 = topk_gate %l, none, none {k = 1, score = identity, norm = softmax} : f32[T, 1], i32[T, 1]
  %e0, %e1 = topk_gate %big, none, none {k = 32, score = sqrt_softplus} : f32[T, 32], i32[T, 32]
  return %a0, %a1, %b0, %b1, %c0, %c1, %d0, %d1, %e0, %e1
})mir",
                      {"topk_gate.warp"});
}

TEST(GateNvrtc, Capacity) {
  expect_rows_compile(gate_kernels(), R"mir(module @t stage(logical)
dim T in [1, 2048]
graph @a(%l : f32[T, 4], %m : f32[T, 256], %two : i32[T, 2], %six : i32[T, 6]) {
  %a0, %a1 = topk_gate %l, none, none {drop = order, capacity_factor = 1.25, min_capacity = 4} : f32[T, 1], i32[T, 1]
  %b0, %b1 = topk_gate %l, none, %two {k = 2, norm = sum, norm_min = 1.1920928955078125e-07, drop = random, capacity_factor = 0.75, sample_second = true, seed = 99999999999} : f32[T, 2], i32[T, 2]
  %c0, %c1 = topk_gate %m, none, %six {k = 6, scale = 2.5, drop = score, capacity_factor = 1, min_capacity = 99999999999} : f32[T, 6], i32[T, 6]
  %d0, %d1 = topk_gate %m, none, none {k = 2, sample_second = true} : f32[T, 2], i32[T, 2]
  return %a0, %a1, %b0, %b1, %c0, %c1, %d0, %d1
})mir",
                      {"topk_gate.warp"});
}

std::string norm_gate_text(const char* x, const char* w, const char* router, int tokens, int hidden,
                           int experts, int k) {
  return fmt::format(
      "module @t stage(logical)\ndim T in [1, {3}]\nparam @w : {1}[{4}]\nparam @r : {2}[{5}, {4}]\n"
      "param @rb : f32[{5}]\nparam @sb : f32[{5}]\n"
      "graph @g(%x : {0}[T, {4}], %y : {0}[T, {4}], %forced : i32[T, {6}]) {{\n"
      "  %a0, %a1, %a2, %a3, %a4 = norm_gate %x, %y, @w, @r, none, none, none {{k = {6}, norm = "
      "sum}} : "
      "{0}[T, {4}], {0}[T, {4}], f32[T, {5}], f32[T, {6}], i32[T, {6}]\n"
      "  %b0, %b1, %b2, %b3, %b4 = norm_gate %x, none, @w, @r, @rb, @sb, %forced {{k = {6}, score "
      "= sigmoid, "
      "plus_one = true}} : {0}[T, {4}], {0}[T, {4}], f32[T, {5}], f32[T, {6}], i32[T, {6}]\n"
      "  return %a0, %a1, %a2, %a3, %a4, %b0, %b1, %b2, %b3, %b4\n}}\n",
      x, w, router, tokens, hidden, experts, k);
}

TEST(GateNvrtc, NormGate) {
  const std::string few[] = {
      norm_gate_text("bf16", "bf16", "bf16", 1, 2048, 128, 8),
      norm_gate_text("bf16", "bf16", "bf16", 2, 2048, 64, 8),
      norm_gate_text("bf16", "bf16", "bf16", 64, 2048, 128, 8),
      norm_gate_text("f16", "f32", "f32", 1, 7168, 256, 8),
      norm_gate_text("bf16", "bf16", "bf16", 32, 7168, 256, 8),
      norm_gate_text("f32", "bf16", "bf16", 4, 256, 16, 2),
  };
  for (const std::string& text : few) {
    SCOPED_TRACE(text);
    expect_rows_compile(gate_kernels(), text, {"norm_gate.tile", "norm_gate.few"});
  }
  const std::string tile_only[] = {  // many tokens, odd rows
      norm_gate_text("bf16", "bf16", "bf16", 2048, 4096, 8, 2),
      norm_gate_text("bf16", "bf16", "f32", 2048, 64, 5, 2),
      norm_gate_text("f32", "f32", "bf16", 8, 99, 7, 3),
  };
  for (const std::string& text : tile_only) {
    SCOPED_TRACE(text);
    expect_rows_compile(gate_kernels(), text, {"norm_gate.tile"});
  }
}

}  // namespace
}  // namespace shunt::codegen
