// compare_modules_by_evaluation must tell equal modules from different ones; fused ops must mean
// what they fuse. Also the reader and writer of golden-text cases.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "ir/error.h"
#include "ir/module.h"
#include "tests/mir_cases.h"

namespace shunt {
namespace {

testing::AssertionResult compare(const std::string& a, const std::string& b) {
  const auto first = ir::parse(a), second = ir::parse(b);
  ir::verify(*first);
  ir::verify(*second);
  return compare_modules_by_evaluation(*first, *second);
}

const std::string kHead =
    "module @t stage(logical)\npage_size 4\ndim R in [1, 4]\ndim S in [1, 4]\ndim T in [1, 16]\n";

std::string small(const std::string& body, const std::string& name = "step") {
  return kHead + "param @w : f32[8]\ngraph @" + name + "(%x : f32[T, 8], %y : f32[T, 8]) {\n" +
         body + "}\n";
}

const std::string kAddThenNorm =
    "%hidden.0 = pointwise %x, %y {expr = \"x0 + x1\", out = f32} : f32[T, 8]\n"
    "%n = rms_norm %hidden.0, @w : f32[T, 8]\nreturn %n\n";

TEST(CompareModules, TellsEqualFromDifferent) {
  const std::string fused =
      "%hidden.0, %n = add_norm %x, %y, @w : f32[T, 8], f32[T, 8]\nreturn %n\n";
  EXPECT_TRUE(compare(small(kAddThenNorm), small(fused)));
  EXPECT_TRUE(compare(small(kAddThenNorm), small(fused, "step.decode")));
  const std::string eps =
      "%hidden.0, %n = add_norm %x, %y, @w {eps = 0.01} : f32[T, 8], f32[T, 8]\nreturn %n\n";
  EXPECT_FALSE(compare(small(kAddThenNorm), small(eps)));
  const std::string lost = "%s, %n = add_norm %x, %y, @w : f32[T, 8], f32[T, 8]\nreturn %n\n";
  EXPECT_FALSE(compare(small(kAddThenNorm), small(lost))) << "hidden.0 is gone";
  EXPECT_FALSE(compare(small(kAddThenNorm), small(fused, "other"))) << "@step is gone";
}

TEST(CompareModules, ParametersComeFromLoad) {
  const auto loaded = [](const std::string& params, const std::string& load,
                         const std::string& body) {
    return kHead + params + "graph @load() {\n" + load +
           "return\n}\ngraph @step(%x : f32[T, 8]) {\n" + body + "}\n";
  };
  const std::string split = loaded(
      "param @a : bf16[4, 8]\nparam @b : bf16[2, 8]\n",
      "%a = checkpoint {tensor = \"a\", shape = [4, 8]} : bf16[4, 8]\nstore %a, @a\n"
      "%b = checkpoint {tensor = \"b\", shape = [2, 8]} : bf16[2, 8]\nstore %b, @b\n",
      "%p = linear %x, @a {out = f32} : f32[T, 4]\n%q = linear %x, @b {out = f32} : f32[T, 2]\n"
      "%y = concat %p, %q {axis = 1} : f32[T, 6]\nreturn %y\n");
  const auto merged = [&](const std::string& order) {
    return loaded("param @ab : bf16[6, 8]\n",
                  "%a = checkpoint {tensor = \"" + order.substr(0, 1) +
                      "\", shape = [4, 8]} : bf16[4, 8]\n"
                      "%b = checkpoint {tensor = \"" +
                      order.substr(1) +
                      "\", shape = [2, 8]} : bf16[2, 8]\n"
                      "%c = concat %a, %b : bf16[6, 8]\nstore %c, @ab\n",
                  "%y = linear %x, @ab {out = f32} : f32[T, 6]\nreturn %y\n");
  };
  EXPECT_TRUE(compare(split, merged("ab")));
  EXPECT_FALSE(compare(split, merged("ba")));
  EXPECT_FALSE(
      compare(small(kAddThenNorm),
              kHead + "param @v : f32[8]\ngraph @step(%x : f32[T, 8], %y : f32[T, 8]) {\n"
                      "%hidden.0, %n = add_norm %x, %y, @v : f32[T, 8], f32[T, 8]\nreturn %n\n}\n"))
      << "a new parameter without a value";
}

const std::string kAttentionInputs =
    ", %positions : i32[T], %seq_starts : i32[S+1], %kv_lens : i32[S], %block_tables : i32[S, 3]) "
    "{\n";
const std::string kAttentionHead = kHead +
                                   "state @k : f32[2, 4]\nstate @v : f32[2, 4]\nparam @f : "
                                   "f32[2]\nparam @qn : f32[4]\nparam @kn : f32[4]\n"
                                   "graph @step(%qkv : f32[T, 32]" +
                                   kAttentionInputs;
const std::string kAttend =
    "%y = attention %q, %seq_starts, %kv_lens, %block_tables, @k, @v, none {scale = 0.5} : f32[T, "
    "16]\nreturn %y\n}\n";

TEST(CompareModules, RopeAppendIsNormRopeAppend) {
  const std::string plain =
      kAttentionHead +
      "%q0 = slice %qkv {axis = 1, end = 16} : f32[T, 16]\n"
      "%k0 = slice %qkv {axis = 1, begin = 16, end = 24} : f32[T, 8]\n"
      "%v0 = slice %qkv {axis = 1, begin = 24, end = 32} : f32[T, 8]\n"
      "%q1 = reshape %q0 {shape = [T, 4, 4]} : f32[T, 4, 4]\n%k1 = reshape %k0 {shape = [T, 2, 4]} "
      ": f32[T, 2, 4]\n"
      "%v1 = reshape %v0 {shape = [T, 2, 4]} : f32[T, 2, 4]\n"
      "%q2 = rms_norm %q1, @qn : f32[T, 4, 4]\n%k2 = rms_norm %k1, @kn : f32[T, 2, 4]\n"
      "%q = rope %q2, %positions, @f : f32[T, 4, 4]\n%k = rope %k2, %positions, @f : f32[T, 2, 4]\n"
      "kv_append %k, %v1, %positions, %seq_starts, %block_tables, @k, @v\n" +
      kAttend;
  const auto fused = [&](const std::string& attrs) {
    return kAttentionHead +
           "%q = rope_append %qkv, %positions, @f, @qn, @kn, %seq_starts, %block_tables, @k, @v "
           "{heads = 4, kv_heads = 2, head_dim = 4, norm = head" +
           attrs + "} : f32[T, 4, 4]\n" + kAttend;
  };
  EXPECT_TRUE(compare(plain, fused("")));
  EXPECT_FALSE(compare(plain, fused(", interleaved = true")));
}

const std::string kMoeHead =
    kHead +
    "param @router : f32[8, 6]\nparam @n : f32[6]\nparam @gate : bf16[8, 4, 6]\nparam @up : "
    "bf16[8, 4, 6]\n"
    "param @both : bf16[8, 8, 6]\nparam @down : bf16[8, 6, 4]\ngraph @load() {\n"
    "%r = checkpoint {tensor = \"r\", dtype = f32, shape = [8, 6]} : f32[8, 6]\nstore %r, @router\n"
    "%n = checkpoint {tensor = \"n\", dtype = f32, shape = [6]} : f32[6]\nstore %n, @n\n"
    "%g = checkpoint {tensor = \"g.*\", stack = 8, shape = [8, 4, 6]} : bf16[8, 4, 6]\nstore %g, "
    "@gate\n"
    "%u = checkpoint {tensor = \"u.*\", stack = 8, shape = [8, 4, 6]} : bf16[8, 4, 6]\nstore %u, "
    "@up\n"
    "%b = concat %g, %u {axis = 1} : bf16[8, 8, 6]\nstore %b, @both\n"
    "%d = checkpoint {tensor = \"d.*\", stack = 8, shape = [8, 6, 4]} : bf16[8, 6, 4]\nstore %d, "
    "@down\n"
    "return\n}\ngraph @step(%x : f32[T, 6], %y : f32[T, 6], %forced : i32[T, 2]) {\n";

const std::string kMoePlain =
    kMoeHead +
    "%h = pointwise %x, %y {expr = \"x0 + x1\", out = f32} : f32[T, 6]\n%m = rms_norm %h, @n : "
    "f32[T, 6]\n"
    "%l = linear %m, @router {out = f32} : f32[T, 8]\n"
    "%w, %ids = topk_gate %l, none, %forced {k = 2} : f32[T, 2], i32[T, 2]\n"
    "%g = routed_linear %m, @gate, %ids {out = f32} : f32[2*T, 4]\n"
    "%u = routed_linear %m, @up, %ids {out = f32} : f32[2*T, 4]\n"
    "%a = pointwise %g, %u {expr = \"silu(x0) * x1\", out = f32} : f32[2*T, 4]\n"
    "%d = routed_linear %a, @down, %ids {out = f32} : f32[2*T, 6]\n"
    "%c = combine_routes %d, %w, %ids, none : f32[T, 6]\n"
    "%z = pointwise %h, %c {expr = \"x0 + x1\", out = f32} : f32[T, 6]\nreturn %z\n}\n";

std::string fused_moe(const std::string& gather) {
  return kMoeHead +
         "%h, %m, %l, %w, %ids = norm_gate %x, %y, @n, @router, none, none, %forced {k = 2} : "
         "f32[T, 6], f32[T, 6], "
         "f32[T, 8], f32[T, 2], i32[T, 2]\n%o, %r = route_sort %ids {experts = 8} : i32[9], "
         "i32[2*T]\n"
         "%a = grouped_linear %m, @both, %o, %r {epilogue = \"silu(gate) * up\", glu = true, out = "
         "f32, gather = " +
         gather +
         "} : f32[2*T, 4]\n%d = grouped_linear %a, @down, %o, %r {out = f32, scatter = true} : "
         "f32[2*T, 6]\n"
         "%z = combine_routes %d, %w, %ids, %h : f32[T, 6]\nreturn %z\n}\n";
}

TEST(CompareModules, SortedFusedExpertsAreRoutedExperts) {
  EXPECT_TRUE(compare(kMoePlain, fused_moe("2")));
  std::string swapped = fused_moe("2");
  swapped.replace(swapped.find("silu(gate) * up"), 15, "silu(up) * gate");
  EXPECT_FALSE(compare(kMoePlain, swapped));
}

TEST(MirCases, ReadsAndRewrites) {
  const auto dir = std::filesystem::temp_directory_path() / "shunt_mir_cases_test";
  std::filesystem::create_directories(dir);
  const std::string file = dir / "a.mir";
  const std::string text =
      "// About this file.\n\n// CASE one\n// PASS p\nmodule @a\n// EXPECT\nmodule @b\n\n// -----\n"
      "// CASE two\n// EXPECT unchanged\nmodule @c\n// -----\n// CASE three\n// ERROR no such "
      "op\nmodule @d\n";
  std::ofstream(file) << text;
  auto cases = read_mir_cases(dir);
  ASSERT_EQ(cases.size(), 3u);
  EXPECT_EQ(cases[0].pass, "p");
  EXPECT_EQ(cases[0].input, "module @a\n");
  EXPECT_EQ(cases[0].line, 5);
  EXPECT_EQ(cases[0].expect, "module @b\n");
  EXPECT_TRUE(cases[1].unchanged);
  EXPECT_FALSE(cases[1].expect.has_value());
  EXPECT_EQ(cases[2].error, "no such op");

  rewrite_expectation(cases[0], "module @new\n");
  rewrite_expectation(cases[1], "module @changed\n");
  cases = read_mir_cases(dir);
  EXPECT_EQ(cases[0].expect, "module @new\n");
  EXPECT_EQ(cases[1].expect, "module @changed\n");
  EXPECT_EQ(cases[1].input, "module @c\n");
  EXPECT_EQ(cases[2].error, "no such op");

  std::ofstream(file) << "// CASE one\nmodule @a\n// -----\n// CASE one\nmodule @a\n";
  EXPECT_THROW(read_mir_cases(dir), UserError);
  std::ofstream(file) << "module @a\n";
  EXPECT_THROW(read_mir_cases(dir), UserError);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace shunt
