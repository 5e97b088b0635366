// Compiles the rows of emit/recurrent.cpp over sizes, element types and options.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

constexpr const char* kDims = "module @t stage(logical)\ndim S in [1, 64]\ndim T in [1, 512]\n";
constexpr const char* kInputs = "%p : i32[T], %s : i32[S+1], %n : i32[S]";

struct ConvCase {
  const char *type, *state, *weight;
  int channels, taps;
  const char *bias, *attrs;
};

TEST(RecurrentNvrtc, CausalConv) {
  const ConvCase cases[] = {
      {"bf16", "bf16", "bf16", 8192, 4, "none", "{epilogue = \"silu(acc)\"}"},
      {"f16", "f16", "f32", 2048, 3, "@b", ""},
      {"f32", "f32", "f32", 37, 2, "@b", "{epilogue = \"acc * sigmoid(acc)\"}"},
      {"bf16", "f32", "f16", 64, 64, "none", ""},
      {"bf16", "bf16", "bf16", 40, 70, "@b", ""},
  };
  for (const ConvCase& c : cases) {
    const std::string text = fmt::format(
        "{0}state @c slot : {2}[{6}, {4}]\nparam @w : {3}[{4}, {5}]\nparam @b : bf16[{4}]\n"
        "graph @step(%x : {1}[T, {4}], {9}) {{\n"
        "  %y = causal_conv %x, @w, {7}, %p, %s, %n, @c {8} : {1}[T, {4}]\n  return %y\n}}\n",
        kDims, c.type, c.state, c.weight, c.channels, c.taps, c.taps - 1, c.bias, c.attrs, kInputs);
    SCOPED_TRACE(text);
    for (bool decode : {false, true})
      expect_rows_compile(recurrent_kernels(), text, {"causal_conv.token"}, decode);
  }
}

struct DeltaCase {
  const char *type, *state;
  int key_heads, heads, dim, dim_v;
  const char* attrs;
};

TEST(RecurrentNvrtc, GatedDeltaRule) {
  const DeltaCase cases[] = {
      {"bf16", "f32", 16, 32, 128, 128, "scale = 0.1, qk_l2norm = true"},
      {"f16", "f32", 2, 4, 16, 16, "qk_l2norm = true"},
      {"f32", "f32", 1, 3, 7, 5, "scale = 2"},
      {"bf16", "bf16", 4, 4, 256, 512, "qk_l2norm = true, eps = 0.001"},
      {"bf16", "f32", 1, 1, 2048, 64, "qk_l2norm = true"},
  };
  for (const DeltaCase& c : cases) {
    const std::string text = fmt::format(
        "{0}state @m slot : {2}[{4}, {5}, {6}]\n"
        "graph @step(%x : {1}[T, {7}], %g : f32[T, {4}], {9}) {{\n"
        "  %y = gated_delta_rule %x, %g, %g, %p, %s, %n, @m {{key_heads = {3}, {8}}} : "
        "{1}[T, {4}, {6}]\n  return %y\n}}\n",
        kDims, c.type, c.state, c.key_heads, c.heads, c.dim, c.dim_v,
        2 * c.key_heads * c.dim + c.heads * c.dim_v, c.attrs, kInputs);
    SCOPED_TRACE(text);
    for (bool decode : {false, true})
      expect_rows_compile(recurrent_kernels(), text, {"gated_delta_rule.recurrent"}, decode);
  }
}

TEST(RecurrentNvrtc, TooLargeAStateHasNoRow) {
  const std::string text = fmt::format(
      "{}state @m slot : f32[1, 2049, 1]\ngraph @step(%x : bf16[T, 4099], %g : f32[T, 1], {}) {{\n"
      "  %y = gated_delta_rule %x, %g, %g, %p, %s, %n, @m {{key_heads = 1}} : bf16[T, 1, 1]\n"
      "  return %y\n}}\n",
      kDims, kInputs);
  expect_rows_compile(recurrent_kernels(), text, {});
}

}  // namespace
}  // namespace shunt::codegen
