// Compiles the rows of emit/attention.cpp over head sizes, groups, element types and masks.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

struct Case {
  const char* type;
  int heads, kv_heads, dim, dim_v;
  const char* attrs;
  bool sinks = false;
  bool slopes = false;
};

std::string module_text(const Case& c) {
  return fmt::format(
      "module @t stage(logical)\ndim S in [1, 64]\ndim T in [1, 64]\nstate @k : {0}[{1}, {2}]\n"
      "state @v : {0}[{1}, {3}]\nparam @sinks : bf16[{4}]\n"
      "graph @step(%q : {0}[T, {4}, {2}], %seq_starts : i32[S+1], %kv_lens : i32[S], %tables : "
      "i32[S, 64]) {{\n"
      "  %a = attention %q, %seq_starts, %kv_lens, %tables, @k, @v, {5}{8} {{{6}}} : {0}[T, {7}]\n"
      "  return %a\n}}\n",
      c.type, c.kv_heads, c.dim, c.dim_v, c.heads, c.sinks ? "@sinks" : "none", c.attrs,
      c.heads * c.dim_v, c.slopes ? ", @sinks" : "");
}

TEST(AttentionNvrtc, TensorCoreSizes) {
  const Case cases[] = {
      {"bf16", 32, 4, 128, 128, "scale = 0.1"},
      {"f16", 4, 2, 64, 64, "scale = 0.125, window = 100"},
      {"bf16", 4, 2, 16, 16, "scale = 0.25, chunk = 128"},
      {"bf16", 16, 1, 80, 80, "scale = 0.1, softcap = 50"},
      {"bf16", 40, 2, 96, 48, "scale = 0.1", true},
      {"f16", 8, 4, 256, 256, "scale = 0.0625, softcap = 30, window = 4096"},
      {"bf16", 32, 1, 192, 128, "scale = 0.1"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(module_text(c));
    expect_rows_compile(attention_kernels(), module_text(c),
                        {"attention.decode", "attention.prefill", "attention.portable"}, true);
    expect_rows_compile(attention_kernels(), module_text(c),
                        {"attention.prefill", "attention.portable"});
  }
}

/// attention.decode reads lengths and page tables before its predecessor has ended.
TEST(AttentionNvrtc, WhatIsReadEarlyIsAnInput) {
  std::string text = module_text({"bf16", 32, 4, 128, 128, "scale = 0.1"});
  text.replace(text.find("  %a ="), 0, "  %lens = reshape %kv_lens {shape = [S]} : i32[S]\n");
  text.replace(text.find("%kv_lens, %tables, @k"), 8, "%lens");
  expect_rows_compile(attention_kernels(), text, {"attention.prefill", "attention.portable"}, true);
}

TEST(AttentionNvrtc, AnySize) {
  const Case cases[] = {
      {"f32", 4, 2, 64, 64, "scale = 0.1", true},
      {"bf16", 4, 4, 8, 8, "scale = 0.1, window = 5"},
      {"f16", 6, 2, 20, 36, "scale = 0.1, softcap = 30, chunk = 7"},
      {"bf16", 4, 4, 288, 288, "scale = 0.1"},
      {"bf16", 8, 8, 64, 64, "scale = 0.125", false, true},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(module_text(c));
    expect_rows_compile(attention_kernels(), module_text(c), {"attention.portable"}, true);
  }
}

std::string latent_text(const char* type, int heads, int dim, int dim_v, const char* attrs) {
  return fmt::format(
      "module @t stage(logical)\ndim S in [1, 16]\ndim T in [1, 16]\nstate @kv : {0}[1, {2}]\n"
      "graph @step(%q : {0}[T, {1}, {2}], %seq_starts : i32[S+1], %kv_lens : i32[S], %tables : "
      "i32[S, 64]) {{\n"
      "  %a = attention %q, %seq_starts, %kv_lens, %tables, @kv, none {{scale = 0.1, value_dim = "
      "{3}{4}}} : {0}[T, {5}]\n  return %a\n}}\n",
      type, heads, dim, dim_v, attrs, heads * dim_v);
}

TEST(AttentionNvrtc, Latent) {
  for (const std::string& text :
       {latent_text("bf16", 128, 576, 512, ""), latent_text("bf16", 16, 576, 512, ""),
        latent_text("f16", 24, 288, 256, ", window = 100, softcap = 30")}) {
    SCOPED_TRACE(text);
    for (const bool decode : {false, true}) {
      std::vector<KernelImpl> rows = attention_kernels();
      for (const KernelImpl& row : attention_latent_kernels()) rows.push_back(row);
      expect_rows_compile(rows, text, {"attention.latent", "attention.portable"}, decode);
    }
  }
}

TEST(AttentionNvrtc, Encoder) {
  const auto text = [](const char* type, int heads, int kv_heads, int dim, int dim_v) {
    return fmt::format(
        "module @t stage(logical)\ndim S in [1, 64]\ndim T in [1, 512]\n"
        "graph @step(%q : {0}[T, {1}, {3}], %k : {0}[T, {2}, {3}], %v : {0}[T, {2}, {4}], "
        "%seq_starts : i32[S+1]) {{\n"
        "  %a = encoder_attention %q, %k, %v, %seq_starts {{scale = 0.1}} : {0}[T, {5}]\n"
        "  return %a\n}}\n",
        type, heads, kv_heads, dim, dim_v, heads * dim_v);
  };
  for (const std::string& tiled :
       {text("bf16", 12, 12, 64, 64), text("f16", 8, 2, 128, 128), text("bf16", 4, 1, 256, 192)}) {
    expect_rows_compile(attention_kernels(), tiled,
                        {"encoder_attention.tiled", "encoder_attention.portable"});
  }
  for (const std::string& any : {text("f32", 12, 12, 64, 64), text("bf16", 3, 3, 20, 24)}) {
    expect_rows_compile(attention_kernels(), any, {"encoder_attention.portable"});
  }
}

}  // namespace
}  // namespace shunt::codegen
