// Compiles every row of the linear family that launches a kernel of ours, over a spread of shapes,
// types and epilogues.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

/// Rows with device code of ours: linear.cublaslt launches none.
std::vector<KernelImpl> rows_with_kernels() {
  std::vector<KernelImpl> rows;
  for (const auto& family : {linear_gemv_kernels(), linear_routed_kernels(), linear_kernels(),
                             linear_grouped_kernels()}) {
    for (const KernelImpl& row : family) {
      if (row.name != "linear.cublaslt") rows.push_back(row);
    }
  }
  return rows;
}

/// Compiles every row that supports an op of the module, for both targets; `expected` took part.
/// The largest tile fills the registers to the brim: what is live across its loop only may be
/// spilled.
void expect_compiles(const std::string& module, const std::set<std::string>& expected) {
  constexpr int kFewBytes = 32;
  for (const char* target : {"sm_90a", "sm_80"}) {
    const CompiledRows compiled = compile_rows(rows_with_kernels(), module, target);
    EXPECT_EQ(compiled.rows, expected) << target;
    for (const auto& [row, kernel] : compiled.kernels) {
      EXPECT_LE(kernel.spill_bytes, kFewBytes) << row << " on " << target << "\n" << kernel.source;
    }
  }
}

std::string module_of(const std::string& dims, const std::string& params, const std::string& inputs,
                      const std::vector<std::string>& ops) {
  std::string text = "module @t stage(logical)\n" + dims + params + "graph @g(" + inputs + ") {\n";
  std::string results;
  for (size_t i = 0; i < ops.size(); ++i) {
    text += fmt::format("  %r{} = {}\n", i, ops[i]);
    results += fmt::format("{}%r{}", i == 0 ? "" : ", ", i);
  }
  return text + "  return " + results + "\n}\n";
}

void expect_linear(int tokens, int n, int k, const std::string& x, const std::string& w,
                   const std::string& out, const std::set<std::string>& rows) {
  const int half = n / 2;
  const std::string params = fmt::format(
      "param @w : {0}[{1}, {2}]\nparam @b : f32[{1}]\nparam @bh : {0}[{3}]\n", w, n, k, half);
  const std::string inputs =
      fmt::format("%x : {}[T, {}], %y : {}[T, {}], %z : {}[T, {}]", x, k, out, n, out, half);
  const std::string type = fmt::format("{}[T, {}]", out, n);
  const std::string half_type = fmt::format("{}[T, {}]", out, half);
  expect_compiles(
      module_of(
          fmt::format("dim T in [1, {}]\n", tokens), params, inputs,
          {fmt::format("linear %x, @w {{out = {}}} : {}", out, type),
           fmt::format(
               "linear %x, @w, @b, %y {{epilogue = \"gelu(acc + x0) * 0.5 + x1\", out = {}}} : {}",
               out, type),
           fmt::format(
               "linear %x, @w {{epilogue = \"silu(gate) * up\", glu = true, out = {}}} : {}", out,
               half_type),
           fmt::format("linear %x, @w, @bh, %z {{epilogue = \"clamp(gate + x0, -7, 7) * (up + "
                       "x1)\", glu = true, "
                       "out = {}}} : {}",
                       out, half_type)}),
      rows);
}

const std::set<std::string> kAllDense = {"linear.gemv", "linear.mma", "linear.simt"};

TEST(LinearNvrtc, OneToken) {
  expect_linear(1, 2048, 2048, "bf16", "bf16", "bf16", kAllDense);
  expect_linear(1, 64, 2048, "bf16", "bf16", "f32", kAllDense);
  expect_linear(1, 50304, 768, "f16", "f16", "f16", kAllDense);
  expect_linear(1, 4096, 14336, "bf16", "bf16", "bf16", kAllDense);
}

TEST(LinearNvrtc, FewTokens) {
  for (int tokens : {2, 3, 4, 8, 16}) {
    expect_linear(tokens, 2048, 1024, "bf16", "bf16", "bf16", kAllDense);
  }
}

TEST(LinearNvrtc, ManyTokens) {
  expect_linear(64, 2048, 2048, "bf16", "bf16", "bf16", {"linear.mma", "linear.simt"});
  expect_linear(4096, 4096, 4096, "f16", "f16", "f16", {"linear.mma", "linear.simt"});
}

TEST(LinearNvrtc, OddSizes) {
  expect_linear(5, 30, 7, "bf16", "bf16", "bf16", kAllDense);
  expect_linear(1, 10, 36, "f16", "f16", "f32", kAllDense);
  expect_linear(33, 514, 130, "bf16", "bf16", "bf16", {"linear.mma", "linear.simt"});
  expect_linear(7, 2, 1, "f32", "f32", "f32", {"linear.gemv", "linear.simt"});
}

TEST(LinearNvrtc, MixedTypes) {
  const std::set<std::string> rows = {"linear.gemv", "linear.simt"};
  expect_linear(1, 512, 256, "bf16", "f32", "bf16", rows);
  expect_linear(8, 512, 252, "f32", "bf16", "f32", rows);
  expect_linear(1, 512, 260, "f16", "bf16", "f16", rows);
  expect_linear(4, 512, 256, "f32", "f32", "bf16", rows);
}

/// One routed_linear of each form, with per-expert bias, and its two users of x.
void expect_routed(int tokens, int k, int experts, int n, int depth, const std::string& type) {
  const int half = n / 2;
  const std::string params = fmt::format(
      "param @w : {0}[{1}, {2}, {3}]\nparam @d : {0}[{1}, {3}, {4}]\nparam @b : f32[{1}, {3}]\n",
      type, experts, n, depth, half);
  expect_compiles(
      module_of(
          fmt::format("dim T in [1, {}]\n", tokens), params,
          fmt::format("%x : {}[T, {}], %ids : i32[T, {}]", type, depth, k),
          {fmt::format("routed_linear %x, @w, %ids {{epilogue = \"silu(gate) * up\", glu = true, "
                       "out = {}}} : "
                       "{}[{}*T, {}]",
                       type, type, k, half),
           fmt::format("routed_linear %r0, @d, %ids {{out = {}}} : {}[{}*T, {}]", type, type, k,
                       depth),
           fmt::format(
               "routed_linear %r0, @d, %ids, @b {{epilogue = \"relu(acc + x0)\", out = f32}} : "
               "f32[{}*T, {}]",
               k, depth)}),
      {"routed_linear.gemv", "routed_linear.grouped_gemv"});
}

TEST(LinearNvrtc, Routed) {
  expect_routed(1, 8, 64, 2048, 2048, "bf16");
  expect_routed(8, 8, 128, 1536, 2048, "bf16");
  expect_routed(1, 2, 8, 28672, 4096, "bf16");
  expect_routed(8, 2, 8, 28672, 4096, "bf16");
  expect_routed(8, 8, 128, 384, 2048, "bf16");
  expect_routed(3, 2, 4, 40, 24, "f16");
  expect_routed(2, 3, 5, 14, 9, "f32");
}

TEST(LinearNvrtc, Heads) {
  const auto expect = [](int tokens, int heads, int n, int depth, const char* x, const char* w,
                         const std::set<std::string>& rows) {
    expect_compiles(
        module_of(fmt::format("dim T in [1, {}]\n", tokens),
                  fmt::format("param @w : {}[{}, {}, {}]\n", w, heads, n, depth),
                  fmt::format("%x : {}[T, {}, {}]", x, heads, depth),
                  {fmt::format("head_linear %x, @w {{out = {}}} : {}[T, {}, {}]", x, x, heads, n)}),
        rows);
  };
  const std::set<std::string> both = {"head_linear.mma", "head_linear.simt"};
  expect(1, 128, 512, 128, "bf16", "bf16", both);
  expect(2048, 16, 128, 512, "f16", "f16", both);
  expect(64, 3, 13, 9, "bf16", "bf16", both);
  expect(64, 3, 16, 32, "f32", "bf16", {"head_linear.simt"});
}

void expect_grouped(int tokens, int k, int experts, int n, int depth, const std::string& x,
                    const std::string& w, const std::set<std::string>& rows) {
  const int half = n / 2;
  const std::string params = fmt::format(
      "param @w : {0}[{1}, {2}, {3}]\nparam @d : {0}[{1}, {3}, {4}]\nparam @b : f32[{1}, {3}]\n", w,
      experts, n, depth, half);
  expect_compiles(
      module_of(
          fmt::format("dim T in [1, {}]\n", tokens), params,
          fmt::format("%x : {}[T, {}], %off : i32[{}], %rows : i32[{}*T]", x, depth, experts + 1,
                      k),
          {fmt::format(
               "grouped_linear %x, @w, %off, %rows {{epilogue = \"silu(gate) * up\", glu = true, "
               "out = {}, gather = {}}} : {}[{}*T, {}]",
               x, k, x, k, half),
           fmt::format(
               "grouped_linear %r0, @d, %off, %rows {{out = {}, scatter = true}} : {}[{}*T, {}]", x,
               x, k, depth),
           fmt::format(
               "grouped_linear %r0, @d, %off, %rows, @b {{epilogue = \"acc + x0\", out = f32}} : "
               "f32[{}*T, {}]",
               k, depth)}),
      rows);
}

TEST(LinearNvrtc, Grouped) {
  const std::set<std::string> both = {"grouped_linear.mma", "grouped_linear.simt"};
  expect_grouped(64, 8, 64, 2048, 2048, "bf16", "bf16", both);
  expect_grouped(64, 8, 128, 1536, 2048, "bf16", "bf16", both);
  expect_grouped(512, 2, 8, 28672, 4096, "bf16", "bf16", both);
  expect_grouped(4096, 8, 64, 2048, 2048, "f16", "f16", both);
  expect_grouped(40, 2, 4, 30, 26, "f16", "f16", both);
  expect_grouped(40, 2, 4, 32, 64, "f32", "bf16", {"grouped_linear.simt"});
}

}  // namespace
}  // namespace shunt::codegen
