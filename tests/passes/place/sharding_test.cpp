// What is split together, and the choice of what is not split.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "ir/error.h"
#include "passes/place/choose_sharding.h"
#include "passes/place/regions.h"
#include "passes/runner.h"

namespace shunt::passes {
namespace {

/// Text of a module: parameters with what @load stores in them, then @step.
class Text {
 public:
  void param(const std::string& name, int rows, int columns = 0) {
    const std::string shape =
        columns == 0 ? std::to_string(rows) : fmt::format("{}, {}", rows, columns);
    params_ += fmt::format("param @{} : bf16[{}]\n", name, shape);
    load_ += fmt::format(
        "  %{0} = checkpoint {{tensor = \"{0}\", dtype = bf16, shape = [{1}]}} : bf16[{1}]\n"
        "  store %{0}, @{0}\n",
        name, shape);
  }
  std::unique_ptr<ir::Module> module(const std::string& step) const {
    return ir::parse(
        "module @m stage(logical)\npage_size 16\ndim T in [1, 64]\ndim S in [1, 8]\n"
        "dim R in [1, 8]\n" +
        params_ + "graph @load() {\n" + load_ + "  return\n}\n" + step);
  }
  std::string params_;

 private:
  std::string load_;
};

/// What a test changes of the model.
struct Variant {
  int vocabulary = 0;       // 0: 4 h
  bool tied = false;        // the head's weight is the table of the embedding
  bool looks_at_q = false;  // a norm over all of q, which cannot be split, behind the attention
};

/// One layer of attention and an MLP, and a head; `h` wide.
std::unique_ptr<ir::Module> model(int h, const Variant& variant = {}) {
  Text text;
  const int heads = h / 64, vocabulary = variant.vocabulary == 0 ? 4 * h : variant.vocabulary;
  for (const char* name : {"q", "k", "v", "o"}) text.param(name, h, h);
  text.param("up", 4 * h, h);
  text.param("down", h, 4 * h);
  text.param("head", vocabulary, h);
  if (!variant.tied) text.param("table", vocabulary, h);
  if (variant.looks_at_q) text.param("norm", h);
  text.params_ +=
      fmt::format("state @k_cache : bf16[{0}, 64]\nstate @v_cache : bf16[{0}, 64]\n", heads);
  return text.module(fmt::format(
      R"mir(graph @step(%tokens : i32[T], %positions : i32[T], %seq_starts : i32[S+1], %kv_lens : i32[S], %block_tables : i32[S, 8], %logit_rows : i32[R]) {{
  at "embed"
  %x = embedding %tokens, @{3} : bf16[T, {0}]
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
  %logits = linear %rows, @head {{out = f32}} : f32[R, {4}]
  {5}
}}
)mir",
      h, heads, 4 * h, variant.tied ? "head" : "table", vocabulary,
      variant.looks_at_q
          ? fmt::format("%looked = rms_norm %l0.q, @norm : bf16[T, {}]\n  return %logits, %looked",
                        h)
          : "return %logits"));
}

/// Two MLPs whose results are added to each other: if both are split, one sum over ranks serves.
std::unique_ptr<ir::Module> two_mlps(int h) {
  Text text;
  for (const char* name : {"a", "b"}) text.param(name, h, h);
  for (const char* name : {"a_down", "b_down"}) text.param(name, h, h);
  text.param("norm", h);
  return text.module(fmt::format(
      R"mir(graph @step(%x : bf16[T, {0}], %seq_starts : i32[S+1], %logit_rows : i32[R]) {{
  at "layers.0.mlp"
  %l0.a = linear %x, @a : bf16[T, {0}]
  %l0.a_inner = pointwise %l0.a {{expr = "relu(x0)"}} : bf16[T, {0}]
  %l0.a_down = linear %l0.a_inner, @a_down : bf16[T, {0}]
  %l0.b = linear %x, @b : bf16[T, {0}]
  %l0.b_inner = pointwise %l0.b {{expr = "relu(x0)"}} : bf16[T, {0}]
  %l0.b_down = linear %l0.b_inner, @b_down : bf16[T, {0}]
  %l0.sum = pointwise %l0.a_down, %l0.b_down {{expr = "x0 + x1"}} : bf16[T, {0}]
  %hidden = pointwise %x, %l0.sum {{expr = "x0 + x1"}} : bf16[T, {0}]
  %out = rms_norm %hidden, @norm : bf16[T, {0}]
  return %out
}}
)mir",
      h));
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
    EXPECT_NE(std::string(e.what()).find(
                  "is called 'l*.gate' (layers share a name: l*.attention, l*.up, logits"),
              std::string::npos)
        << e.what();
  }
  options.mesh = {2, 1, 2, 1};
  EXPECT_THROW(collectives(*model(128), options), UserError);
}

/// A reader that cannot be split keeps q whole, in no region, while the attention is split or not.
TEST(Regions, AProjectionThatOthersLookAt) {
  const auto logical = model(128, {0, false, true});
  PassOptions options = on_two();
  EXPECT_EQ(collectives(*logical, options), 3);
  options.keep_whole = {"l*.attention"};
  EXPECT_EQ(collectives(*logical, options), 2);
}

/// The table that is also the head is split as the head is, and needs a sum then.
TEST(Regions, ATiedHead) {
  const auto logical = model(128, {0, true, false});
  PassOptions options = on_two();
  EXPECT_EQ(collectives(*logical, options), 4);
  options.keep_whole = {"logits"};
  EXPECT_EQ(collectives(*logical, options), 2);
}

TEST(Regions, FewerRowsThanRanks) {
  EXPECT_EQ(region_names(*model(128, {1, false, false}), 2),
            (std::vector<std::string>{"l*.attention", "l*.up"}));
}

TEST(ChooseSharding, SplitsWhatIsLargeOverQuickLinks) {
  const Target& h200 = find_target("sm_90a");
  const Workload workload{4, 1024};
  const ShardingChoice large = choose_sharding(*model(8192), h200, on_two(), workload);
  EXPECT_EQ(large.keep_whole, std::vector<std::string>{});
  EXPECT_EQ(large.trials.front().keep_whole, std::vector<std::string>{});
  EXPECT_EQ(choose_sharding(*model(128), h200, on_two(), workload).keep_whole, kAll);
  // Quicker sums are in the prediction.
  PassOptions over_peers = on_two();
  over_peers.peer_memory = true;
  EXPECT_LT(choose_sharding(*model(8192), h200, over_peers, workload).trials.front().seconds,
            large.trials.front().seconds);
}

Target far() {
  Target target = find_target("sm_90a");
  target.link_bytes_per_s = 1e9;
  target.collective_seconds = 200e-6;
  return target;
}

TEST(ChooseSharding, SlowLinksKeepMoreWhole) {
  const ShardingChoice choice = choose_sharding(*model(8192), far(), on_two(), {4, 1024});
  EXPECT_FALSE(choice.keep_whole.empty());
  EXPECT_TRUE(std::is_sorted(choice.keep_whole.begin(), choice.keep_whole.end()));
  const auto best = std::min_element(choice.trials.begin(), choice.trials.end(),
                                     [](auto& a, auto& b) { return a.seconds < b.seconds; });
  EXPECT_EQ(best->keep_whole, choice.keep_whole);
}

TEST(ChooseSharding, MemoryIsABound) {
  Target target = far();
  const ShardingChoice free = choose_sharding(*model(8192), target, on_two(), {4, 1024});
  ASSERT_EQ(free.keep_whole, kAll);
  const auto bytes_of = [](const ShardingChoice& c, const std::vector<std::string>& names) {
    for (const auto& t : c.trials) {
      if (t.keep_whole == names) return t.rank_bytes;
    }
    return int64_t{-1};
  };
  const int64_t most = bytes_of(free, kAll) - 1;
  target.memory_bytes = static_cast<int64_t>(static_cast<double>(most) / 0.85);
  const ShardingChoice bound = choose_sharding(*model(8192), target, on_two(), {4, 1024});
  EXPECT_EQ(bound.keep_whole.size(), 2u);
  EXPECT_LE(bytes_of(bound, bound.keep_whole), most);
  target.memory_bytes = 1;  // not even what is split fits: nothing may add to it
  EXPECT_TRUE(choose_sharding(*model(8192), target, on_two(), {4, 1024}).keep_whole.empty());
}

/// Regions that share a sum are worth splitting, or not, only together: of every size, the best of
/// all four choices is found.
TEST(ChooseSharding, OnlyTogether) {
  const Target& h200 = find_target("sm_90a");
  const Workload workload{4, 1024};
  bool needs_first = false, needs_second = false;
  for (int h = 256; h <= 4096; h += 256) {
    const auto logical = two_mlps(h);
    std::map<std::vector<std::string>, double> seconds;
    for (const std::vector<std::string>& names :
         {std::vector<std::string>{}, {"l*.a"}, {"l*.b"}, {"l*.a", "l*.b"}}) {
      PassOptions options = on_two();
      options.keep_whole = names;
      const auto module = ir::clone(*logical);
      run_pipeline(*module, h200, options);
      seconds[names] = predict_decode(*module, h200, workload).seconds();
    }
    const auto best = std::min_element(seconds.begin(), seconds.end(),
                                       [](auto& a, auto& b) { return a.second < b.second; });
    EXPECT_EQ(choose_sharding(*logical, h200, on_two(), workload).keep_whole, best->first) << h;
    const double split = seconds[{}], one = seconds[{"l*.a"}], whole = seconds[{"l*.a", "l*.b"}];
    needs_first |= split < whole && whole < one;
    needs_second |= whole < split && split < one;
  }
  EXPECT_TRUE(needs_first) << "no size is found from all split alone";
  EXPECT_TRUE(needs_second) << "no size is found from all whole alone";
}

TEST(ChooseSharding, MoreSequencesThanAreDecodedAtOnce) {
  const auto logical = model(128);
  const ShardingChoice most = choose_sharding(*logical, find_target("sm_90a"), on_two(), {8, 1024});
  const ShardingChoice more =
      choose_sharding(*logical, find_target("sm_90a"), on_two(), {99, 1024});
  EXPECT_EQ(most.trials.front().seconds, more.trials.front().seconds);
}

TEST(ChooseSharding, NothingToChoose) {
  PassOptions alone;
  EXPECT_TRUE(choose_sharding(*model(128), find_target("sm_90a"), alone, {}).trials.empty());
  const auto fragment = ir::parse(
      "module @m stage(logical)\ndim T in [1, 4]\n"
      "graph @step(%x : f32[T, 4]) {\n  return %x\n}\n");
  EXPECT_TRUE(choose_sharding(*fragment, find_target("sm_90a"), on_two(), {}).trials.empty());
}

}  // namespace
}  // namespace shunt::passes
