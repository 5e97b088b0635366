// What is split together, and the choice of what is not split.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "ir/error.h"
#include "passes/place/choose_sharding.h"
#include "passes/place/regions.h"
#include "passes/runner.h"

namespace shunt::passes {
namespace {

/// One layer of attention and an MLP, and a head; `h` wide.
std::unique_ptr<ir::Module> model(int h) {
  std::string text = fmt::format(R"mir(module @m stage(logical)
page_size 16
dim T in [1, 64]
dim S in [1, 8]
dim R in [1, 8]
)mir");
  std::string load;
  const auto param = [&](const std::string& name, int rows, int columns) {
    text += fmt::format("param @{} : bf16[{}, {}]\n", name, rows, columns);
    load += fmt::format(
        "  %{0} = checkpoint {{tensor = \"{0}\", dtype = bf16, shape = [{1}, {2}]}} : bf16[{1}, "
        "{2}]\n"
        "  store %{0}, @{0}\n",
        name, rows, columns);
  };
  for (const char* name : {"q", "k", "v", "o"}) param(name, h, h);
  param("up", 4 * h, h);
  param("down", h, 4 * h);
  param("head", 4 * h, h);
  const int heads = h / 64;
  text += fmt::format(
      "state @k_cache : bf16[{0}, 64]\nstate @v_cache : bf16[{0}, 64]\n", heads);
  text += "graph @load() {\n" + load + "  return\n}\n";
  text += fmt::format(
      R"mir(graph @step(%x : bf16[T, {0}], %positions : i32[T], %seq_starts : i32[S+1], %kv_lens : i32[S], %block_tables : i32[S, 8], %logit_rows : i32[R]) {{
  at "layers.0.self_attn"
  %l0.q = linear %x, @q : bf16[T, {0}]
  %l0.k = linear %x, @k : bf16[T, {0}]
  %l0.v = linear %x, @v : bf16[T, {0}]
  %l0.q_heads = reshape %l0.q {{shape = [T, {1}, 64]}} : bf16[T, {1}, 64]
  %l0.k_heads = reshape %l0.k {{shape = [T, {1}, 64]}} : bf16[T, {1}, 64]
  %l0.v_heads = reshape %l0.v {{shape = [T, {1}, 64]}} : bf16[T, {1}, 64]
  kv_append %l0.k_heads, %l0.v_heads, %positions, %seq_starts, %block_tables, @k_cache, @v_cache
  %l0.attention = attention %l0.q_heads, %seq_starts, %kv_lens, %block_tables, @k_cache, @v_cache, none {{scale = 0.125}} : bf16[T, {0}]
  %l0.o = linear %l0.attention, @o : bf16[T, {0}]
  %l0.mid = pointwise %x, %l0.o {{expr = "x0 + x1"}} : bf16[T, {0}]
  at "layers.0.mlp"
  %l0.up = linear %l0.mid, @up : bf16[T, {2}]
  %l0.inner = pointwise %l0.up {{expr = "relu(x0)"}} : bf16[T, {2}]
  %l0.down = linear %l0.inner, @down : bf16[T, {0}]
  %hidden = pointwise %l0.mid, %l0.down {{expr = "x0 + x1"}} : bf16[T, {0}]
  at "lm_head"
  %rows = gather_rows %hidden, %logit_rows : bf16[R, {0}]
  %logits = linear %rows, @head {{out = f32}} : f32[R, {2}]
  return %logits
}}
)mir",
      h, heads, 4 * h);
  return ir::parse(text);
}

const std::vector<std::string> kAll = {"l*.attention", "l*.up", "logits"};

PassOptions on_two() {
  PassOptions options;
  options.mesh = {1, 2, 1, 2};
  return options;
}

int collectives(const ir::Module& logical, const PassOptions& options) {
  const auto module = ir::clone(logical);
  run_pipeline(*module, find_target("sm_90a"), options);
  const auto& ops = module->graphs.back()->ops;
  return static_cast<int>(std::count_if(ops.begin(), ops.end(), [](const auto& op) {
    return op->kind == ir::OpKind::all_reduce || op->kind == ir::OpKind::all_gather;
  }));
}

TEST(Regions, AttentionMlpAndHead) {
  EXPECT_EQ(region_names(*model(128), 2), kAll);
  EXPECT_TRUE(region_names(*model(128), 1).empty());
}

TEST(Regions, WhatIsKeptWholeNeedsNoCollective) {
  const auto logical = model(128);
  PassOptions options = on_two();
  EXPECT_EQ(collectives(*logical, options), 3);
  for (const std::string& region : kAll) {
    options.keep_whole = {region};
    EXPECT_EQ(collectives(*logical, options), 2) << region;
  }
  options.keep_whole = kAll;
  EXPECT_EQ(collectives(*logical, options), 0);
}

TEST(Regions, UnknownNamesAreErrors) {
  PassOptions options = on_two();
  options.keep_whole = {"l*.attention", "l*.gate"};
  try {
    collectives(*model(128), options);
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(
        std::string(e.what()).find("is called l*.gate (there is: l*.attention, l*.up, logits"),
        std::string::npos)
        << e.what();
  }
  options.mesh = {2, 1, 2, 1};
  EXPECT_THROW(collectives(*model(128), options), UserError);
}

TEST(ChooseSharding, SplitsWhatIsLargeOverQuickLinks) {
  const Target& h200 = find_target("sm_90a");
  const Workload workload{4, 1024};
  const ShardingChoice large = choose_sharding(*model(8192), h200, on_two(), workload);
  EXPECT_EQ(large.keep_whole, std::vector<std::string>{});
  EXPECT_EQ(large.trials.front().keep_whole, std::vector<std::string>{});
  EXPECT_EQ(choose_sharding(*model(128), h200, on_two(), workload).keep_whole, kAll);
}

TEST(ChooseSharding, SlowLinksKeepMoreWhole) {
  Target far = find_target("sm_90a");
  far.link_bytes_per_s = 1e9;
  far.collective_seconds = 200e-6;
  const ShardingChoice choice = choose_sharding(*model(8192), far, on_two(), {4, 1024});
  EXPECT_FALSE(choice.keep_whole.empty());
  // It is the least of what was tried, and the names it gives are that trial's.
  const auto best = std::min_element(choice.trials.begin(), choice.trials.end(),
                                     [](auto& a, auto& b) { return a.seconds < b.seconds; });
  EXPECT_EQ(best->keep_whole, choice.keep_whole);
}

TEST(ChooseSharding, NothingToChoose) {
  PassOptions alone;
  EXPECT_TRUE(choose_sharding(*model(128), find_target("sm_90a"), alone, {}).trials.empty());
  const auto stateless = ir::parse(
      "module @m stage(logical)\ndim T in [1, 4]\n"
      "graph @step(%x : f32[T, 4]) {\n  return %x\n}\n");
  EXPECT_TRUE(choose_sharding(*stateless, find_target("sm_90a"), on_two(), {}).trials.empty());
}

}  // namespace
}  // namespace shunt::passes
