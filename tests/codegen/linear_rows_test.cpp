// Which row takes which product: what each supports, and that the cheapest is the one meant for the
// size.
#include <gtest/gtest.h>

#include "codegen/emit/families.h"
#include "ir/error.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

std::vector<KernelImpl> family() {
  std::vector<KernelImpl> rows;
  for (const auto& part : {linear_gemv_kernels(), linear_routed_kernels(), linear_kernels(),
                           linear_grouped_kernels()}) {
    rows.insert(rows.end(), part.begin(), part.end());
  }
  return rows;
}

struct Chosen {
  std::string best;
  std::string supporting;  // names, joined by spaces
};

/// The choice for the last op of a graph with T up to `tokens`.
Chosen choose(int tokens, const std::string& params, const std::string& inputs,
              const std::string& op, const std::string& target = "sm_90a") {
  const auto module = ir::parse(
      fmt::format("module @t stage(logical)\ndim T in [1, {}]\n{}\ngraph @g({}) {{\n  %r = "
                  "{}\n  return %r\n}}\n",
                  tokens, params, inputs, op));
  ir::verify(*module);
  const ir::Graph& graph = *module->graphs[0];
  const Context context{find_target(target), *module, graph, {{"T", tokens}}};
  Chosen chosen;
  double least = 0;
  for (const KernelImpl& row : family()) {
    if (row.op != graph.ops.back()->kind || !row.supports(*graph.ops.back(), context)) continue;
    chosen.supporting += (chosen.supporting.empty() ? "" : " ") + std::string(row.name);
    const double seconds = row.seconds(*graph.ops.back(), context);
    EXPECT_GT(seconds, 0);
    if (chosen.best.empty() || seconds < least) {
      chosen.best = row.name;
      least = seconds;
    }
  }
  return chosen;
}

Chosen choose_linear(int tokens, int n, int k, const std::string& epilogue = "") {
  const std::string attrs =
      epilogue.empty() ? "@w" : fmt::format("@w {{epilogue = \"{}\"}}", epilogue);
  return choose(tokens, fmt::format("param @w : bf16[{}, {}]", n, k),
                fmt::format("%x : bf16[T, {}]", k),
                fmt::format("linear %x, {} : bf16[T, {}]", attrs, n));
}

TEST(LinearRows, FewTokensAreStreamed) {
  for (int tokens : {1, 2, 4, 8}) {
    EXPECT_EQ(choose_linear(tokens, 2048, 2048).best, "linear.gemv") << tokens;
    EXPECT_EQ(choose_linear(tokens, 6144, 4096).best, "linear.gemv") << tokens;
    EXPECT_EQ(choose_linear(tokens, 151936, 2048).best, "linear.gemv") << tokens;
    EXPECT_EQ(choose_linear(tokens, 64, 2048).best, "linear.gemv") << tokens;
  }
}

TEST(LinearRows, ManyTokensGoToCublaslt) {
  for (int tokens : {32, 64, 512, 4096}) {
    EXPECT_EQ(choose_linear(tokens, 2048, 2048).best, "linear.cublaslt") << tokens;
    EXPECT_EQ(choose_linear(tokens, 6144, 4096).best, "linear.cublaslt") << tokens;
  }
}

TEST(LinearRows, AnEpilogueTakesTensorCores) {
  EXPECT_EQ(choose_linear(512, 2048, 2048, "silu(acc)").best, "linear.mma");
  EXPECT_EQ(choose_linear(512, 2048, 2048, "silu(acc)").supporting, "linear.mma linear.simt");
  EXPECT_EQ(choose_linear(1, 2048, 2048, "silu(acc)").best, "linear.gemv");
}

TEST(LinearRows, CublasltTakesSumsOnly) {
  const auto with = [](const std::string& extra, const std::string& op) {
    return choose(512, "param @w : bf16[2048, 2048]\nparam @b : bf16[2048]\nparam @f : f32[2048]",
                  "%x : bf16[T, 2048], %y : bf16[T, 2048]" + extra, op)
        .supporting;
  };
  const std::string type = " : bf16[T, 2048]";
  const std::string yes = "linear.cublaslt linear.mma linear.simt", no = "linear.mma linear.simt";
  EXPECT_EQ(with("", "linear %x, @w, %y {epilogue = \"acc + x0\"}" + type), yes);
  EXPECT_EQ(with("", "linear %x, @w, @b {epilogue = \"x0 + acc\"}" + type), yes);
  EXPECT_EQ(with("", "linear %x, @w, @b, %y {epilogue = \"acc + x0 + x1\"}" + type), yes);
  EXPECT_EQ(with("", "linear %x, @w, @f {epilogue = \"acc + x0\"}" + type), no)
      << "bias of another type";
  EXPECT_EQ(with("", "linear %x, @w, %y {epilogue = \"acc - x0\"}" + type), no);
  EXPECT_EQ(with("", "linear %x, @w, %y {epilogue = \"acc + x0 + x0\"}" + type), no);
  EXPECT_EQ(
      with(", %z : bf16[T, 2048]", "linear %x, @w, %y, %z {epilogue = \"acc + x0 + x1\"}" + type),
      no);
}

TEST(LinearRows, TypesAndSizesDecideWhoCan) {
  const auto rows = [](int tokens, int n, int k, const char* x, const char* w, const char* out,
                       const char* target) {
    return choose(tokens, fmt::format("param @w : {}[{}, {}]", w, n, k),
                  fmt::format("%x : {}[T, {}]", x, k),
                  fmt::format("linear %x, @w {{out = {}}} : {}[T, {}]", out, out, n), target)
        .supporting;
  };
  EXPECT_EQ(rows(64, 64, 64, "bf16", "bf16", "f32", "sm_80"),
            "linear.cublaslt linear.mma linear.simt");
  EXPECT_EQ(rows(64, 64, 64, "bf16", "bf16", "f16", "sm_80"), "linear.mma linear.simt");
  EXPECT_EQ(rows(64, 64, 64, "f32", "f32", "f32", "sm_80"), "linear.cublaslt linear.simt");
  EXPECT_EQ(rows(64, 64, 64, "f32", "bf16", "f32", "sm_80"), "linear.simt");
  EXPECT_EQ(rows(64, 64, 63, "bf16", "bf16", "bf16", "sm_80"), "linear.mma linear.simt");
  EXPECT_EQ(rows(16, 63, 63, "f32", "bf16", "f16", "sm_80"), "linear.gemv linear.simt");
  EXPECT_EQ(rows(16, 64, 64, "f32", "f32", "f32", "cpu"), "");
}

TEST(LinearRows, WeightsThatAreComputedAreNotReadAhead) {
  EXPECT_EQ(choose(4, "param @a : bf16[32, 64]", "%x : bf16[T, 64], %w : bf16[64, 64]",
                   "concat @a, @a {axis = 0} : bf16[64, 64]\n  %s = linear %x, %r : bf16[T, 64]")
                .supporting,
            "linear.cublaslt linear.simt");
}

TEST(LinearRows, ExpertForms) {
  const std::string params = "param @w : bf16[64, 2048, 2048]";
  const auto routed = [&](int tokens) {
    return choose(tokens, params, "%x : bf16[T, 2048], %ids : i32[T, 8]",
                  "routed_linear %x, @w, %ids : bf16[8*T, 2048]")
        .best;
  };
  EXPECT_EQ(routed(1), "routed_linear.gemv");  // a token's experts are distinct
  EXPECT_EQ(routed(8), "routed_linear.grouped_gemv");
  EXPECT_EQ(routed(512), "routed_linear.gemv");  // a list of all routes would be too long
  EXPECT_EQ(choose(64, params, "%x : bf16[T, 2048], %o : i32[65], %rows : i32[8*T]",
                   "grouped_linear %x, @w, %o, %rows {gather = 8} : bf16[8*T, 2048]")
                .best,
            "grouped_linear.mma");
}

TEST(LinearRows, FewRoutesAreLocal) {
  for (int tokens : {1, 2, 8, 16}) {
    EXPECT_EQ(choose(tokens, "param @w : bf16[32, 1536, 2048]\nparam @table : f32[384]",
                     "%x : bf16[T, 2048], %ids : i32[T, 8]",
                     "local_routes %ids, @table {experts = 128} : i32[T, 8]\n  %s = "
                     "routed_linear %x, @w, %r : bf16[8*T, 1536]")
                  .best,
              "routed_linear.grouped_gemv")
        << tokens;
  }
}

/// How sorted experts are launched: 2 of `experts`, 2 choices a token, `columns` by `depth` each.
struct Tiles {
  std::string block_m;
  std::vector<int64_t> grid;
  int64_t stages = 0, smem = 0;
  bool operator==(const Tiles&) const = default;
};
Tiles tiles_of(int tokens, int experts, int columns = 4096, int depth = 1024) {
  const std::string local = experts == 2 ? "%ids" : "%mine";
  const auto module = ir::parse(
      fmt::format("module @t stage(placed)\ndim T in [1, {0}]\nparam @w : bf16[2, {4}, {5}]\n"
                  "param @table : f32[{2}]\ngraph @g(%x : bf16[T, {5}], %ids : i32[T, 2]) {{\n"
                  "  %mine = local_routes %ids, @table {{experts = {1}}} : i32[T, 2]\n"
                  "  %o, %rows = route_sort {3} {{experts = 2}} : i32[3], i32[2*T]\n"
                  "  %r = grouped_linear %x, @w, %o, %rows {{gather = 2}} : bf16[2*T, {4}]\n"
                  "  return %r, %mine\n}}\n",
                  tokens, experts, 3 * experts, local, columns, depth));
  ir::verify(*module);
  const ir::Graph& graph = *module->graphs[0];
  const Context context{find_target("sm_90a"), *module, graph, {{"T", tokens}}};
  RecordingSteps steps(context);
  for (const KernelImpl& row : linear_grouped_kernels()) {
    if (row.name == "grouped_linear.mma") row.emit(*graph.ops.back(), steps);
  }
  const auto& launched = steps.launched.at(0);
  Tiles tiles;
  tiles.smem = launched.spec.smem;
  for (const DimExpr& n : launched.spec.grid) tiles.grid.push_back(n.evaluate(context.upper));
  for (const TemplateArg& a : launched.kernel.config) {
    if (a.name == "kBlockM") tiles.block_m = a.value;
    if (a.name == "kStages") tiles.stages = std::stoll(a.value);
  }
  return tiles;
}

/// A rank that has a quarter of the experts gets about a quarter of the routes.
TEST(LinearRows, TilesAreForTheRowsThatComeToARank) {
  for (int tokens : {4, 16, 64, 256})
    EXPECT_EQ(tiles_of(4 * tokens, 8), tiles_of(tokens, 2)) << tokens;
  EXPECT_NE(tiles_of(256, 2), tiles_of(64, 2));
}

/// Blocks that a multiprocessor has room for.
int64_t fitting(const Tiles& tiles) { return 228 * 1024 / (tiles.smem + 1024); }

/// Two blocks share a multiprocessor where there are tiles enough; a block that has one for itself
/// leaves no room for another.
TEST(LinearRows, RingsAreAsLongAsTheMemoryOfTheirBlocks) {
  const Tiles many = tiles_of(16, 2, 28672, 4096);  // 896 tiles of 64 columns
  EXPECT_EQ(many.grid[0] * many.grid[1], 896);
  EXPECT_EQ(fitting(many), 2);
  const Tiles some = tiles_of(16, 2, 12288, 4096);
  EXPECT_EQ(some.grid[0] * some.grid[1], 384);
  EXPECT_EQ(fitting(some), 2);
  for (const int columns : {4096, 2048}) {  // tiles of 64 columns, and of 32
    const Tiles few = tiles_of(8, 2, columns, 14336);
    EXPECT_LE(few.grid[0] * few.grid[1], 132);
    EXPECT_EQ(fitting(few), 1) << columns;
  }
  EXPECT_EQ(tiles_of(16, 2, 28672, 192).stages, 4);  // three steps of K
  EXPECT_EQ(tiles_of(8, 2, 2048, 192).stages, 3);
}

/// A kernel may read ids before its predecessor has ended only if that is not what wrote them.
TEST(LinearRows, IdsAreReadEarlyByTheSecondProduct) {
  const auto module = ir::parse(
      "module @t stage(logical)\ndim T in [1, 8]\nparam @up : bf16[16, 64, 32]\n"
      "param @down : bf16[16, 32, 64]\ngraph @g(%x : bf16[T, 32], %ids : i32[T, 2], "
      "%other : i32[T, 2]) {\n"
      "  %a = routed_linear %x, @up, %ids : bf16[2*T, 64]\n"
      "  %b = routed_linear %a, @down, %ids : bf16[2*T, 32]\n"
      "  %c = routed_linear %a, @down, %other : bf16[2*T, 32]\n"
      "  return %b, %c\n}\n");
  ir::verify(*module);
  const Context context{find_target("sm_90a"), *module, *module->graphs[0], {{"T", 8}}};
  for (const KernelImpl& row : linear_routed_kernels()) {
    RecordingSteps steps(context);
    for (const auto& op : module->graphs[0]->ops) row.emit(*op, steps);
    std::string early;
    for (const auto& l : steps.launched) {
      for (const TemplateArg& arg : l.kernel.config) {
        if (arg.name == "kEarlyIds") early += arg.value + " ";
      }
    }
    EXPECT_EQ(early, "false true false ") << row.name;
  }
}

}  // namespace
}  // namespace shunt::codegen
