// causal_conv and gated_delta_rule in the evaluator: by value, and through their state: chunks and
// single tokens equal the whole, a batch equals single runs, a slot's new owner starts from zero.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "ir/error.h"
#include "ir/reference/evaluator.h"
#include "tests/mir_cases.h"

namespace shunt::ir {
namespace {

Tensor ints(std::vector<int32_t> i) {
  return {{DType::i32, {static_cast<int64_t>(i.size())}}, {}, std::move(i)};
}

/// Both ops on one stream of C = 20 channels: 2 key heads of 3, 4 value heads of 2.
constexpr const char* kModule =
    "module @t stage(logical)\ndim T in [0, 64]\ndim S in [1, 8]\n"
    "state @c slot : f32[3, 20]\nstate @s slot : f32[4, 3, 2]\n"
    "param @w : f32[20, 4]\nparam @b : f32[20]\n"
    "graph @step(%x : f32[T, 20], %g : f32[T, 4], %beta : f32[T, 4], %positions : i32[T], "
    "%starts : i32[S+1], %slots : i32[S]) {\n"
    "  %y = causal_conv %x, @w, @b, %positions, %starts, %slots, @c {epilogue = \"silu(acc)\"} : "
    "f32[T, 20]\n"
    "  %z = gated_delta_rule %y, %g, %beta, %positions, %starts, %slots, @s {key_heads = 2, scale "
    "= 0.5, qk_l2norm = true} : f32[T, 4, 2]\n"
    "  return %y, %z\n}\n";

/// Part of a sequence in a step: `tokens` of sequence `id` from `from` on, in `slot`.
struct Piece {
  int id, from, tokens, slot;
};

class Recurrent : public testing::Test {
 protected:
  Recurrent() : module_(parse(kModule)), evaluator_(*module_, {1, {}, 6}) {
    for (const char* name : {"w", "b"}) {
      evaluator_.set_param(name, random_mir_tensor(module_->find_param(name)->type, name));
    }
  }

  /// %y and %z of one step, row after row.
  std::vector<float> run(const std::vector<Piece>& pieces) {
    std::vector<int32_t> positions, starts = {0}, slots;
    std::map<std::string, Tensor> in;
    Tensor x{{}, {}, {}}, g{{}, {}, {}}, beta{{}, {}, {}};
    for (const Piece& p : pieces) {
      const auto all = [&](const char* name, int64_t width) {
        return random_mir_tensor({DType::f32, {64, width}}, name + std::to_string(p.id)).f;
      };
      const auto take = [&](Tensor& to, const std::vector<float>& from, int64_t width) {
        to.f.insert(to.f.end(), from.begin() + p.from * width,
                    from.begin() + (p.from + p.tokens) * width);
      };
      take(x, all("x", 20), 20);
      auto decay = all("g", 4), rate = all("beta", 4);
      for (float& v : decay) v = -std::fabs(v);
      for (float& v : rate) v = std::fabs(v);
      take(g, decay, 4);
      take(beta, rate, 4);
      for (int i = 0; i < p.tokens; ++i) positions.push_back(p.from + i);
      starts.push_back(static_cast<int32_t>(positions.size()));
      slots.push_back(p.slot);
    }
    const auto tokens = static_cast<int64_t>(positions.size());
    x.type = {DType::f32, {tokens, 20}};
    g.type = beta.type = {DType::f32, {tokens, 4}};
    const DimEnv dims = {{"T", tokens}, {"S", static_cast<int64_t>(pieces.size())}};
    const auto out = evaluator_.run("step", dims,
                                    {{"x", x},
                                     {"g", g},
                                     {"beta", beta},
                                     {"positions", ints(positions)},
                                     {"starts", ints(starts)},
                                     {"slots", ints(slots)}});
    std::vector<float> rows;
    for (int64_t t = 0; t < tokens; ++t) {
      rows.insert(rows.end(), out.at("y").row(t), out.at("y").row(t) + 20);
      rows.insert(rows.end(), out.at("z").f.begin() + t * 8, out.at("z").f.begin() + t * 8 + 8);
    }
    return rows;
  }

  std::unique_ptr<Module> module_;
  Evaluator evaluator_;
};

void expect_same(const std::vector<float>& got, const std::vector<float>& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], 1e-5) << i;
}

std::vector<float> joined(const std::vector<std::vector<float>>& parts) {
  std::vector<float> all;
  for (const auto& p : parts) all.insert(all.end(), p.begin(), p.end());
  return all;
}

TEST_F(Recurrent, ChunksAndSingleTokensEqualTheWhole) {
  const auto whole = run({{0, 0, 12, 3}});
  std::vector<std::vector<float>> parts;
  int at = 0;
  for (const int n : {1, 2, 5, 1, 1, 2}) {
    parts.push_back(run({{0, at, n, 4}}));
    at += n;
  }
  expect_same(joined(parts), whole);
}

TEST_F(Recurrent, UnequalBatchEqualsSingleRuns) {
  const auto a = run({{0, 0, 7, 0}}), b = run({{1, 0, 1, 0}}), c = run({{2, 0, 4, 0}});
  expect_same(run({{0, 0, 7, 5}, {1, 0, 1, 1}, {3, 9, 0, 2}, {2, 0, 4, 0}}), joined({a, b, c}));
  // They go on in another order, one of them from the start.
  const auto wanted = joined({run({{2, 4, 3, 0}}), run({{0, 7, 1, 5}}), run({{1, 0, 2, 4}})});
  run({{0, 0, 7, 5}, {2, 0, 4, 0}});
  expect_same(run({{2, 4, 3, 0}, {0, 7, 1, 5}, {1, 0, 2, 1}}), wanted);
}

TEST_F(Recurrent, ANewSequenceStartsFromZero) {
  const auto fresh = run({{1, 0, 6, 2}});
  run({{0, 0, 9, 3}});
  expect_same(run({{1, 0, 6, 3}}), fresh);
}

TEST_F(Recurrent, SlotsAndOffsetsAreChecked) {
  EXPECT_THROW(run({{0, 0, 2, 6}}), UserError);
  EXPECT_THROW(run({{0, 0, 2, -1}}), UserError);
}

TEST(CausalConv, ByHand) {
  const auto module = parse(
      "module @t stage(logical)\ndim T in [1, 8]\ndim S in [1, 2]\nstate @c slot : f32[1, 2]\n"
      "param @w : f32[2, 2]\nparam @b : f32[2]\n"
      "graph @step(%x : f32[T, 2], %p : i32[T], %s : i32[S+1], %n : i32[S]) {\n"
      "  %y = causal_conv %x, @w, @b, %p, %s, %n, @c : f32[T, 2]\n  return %y\n}\n");
  Evaluator e(*module, {});
  e.set_param("w", {{DType::f32, {2, 2}}, {10, 1, 100, 2}, {}});
  e.set_param("b", {{DType::f32, {2}}, {0.5, 0}, {}});
  const auto y = [&](std::vector<float> x, std::vector<int32_t> p) {
    const auto n = static_cast<int64_t>(p.size());
    return e
        .run("step", {{"T", n}, {"S", 1}},
             {{"x", {{DType::f32, {n, 2}}, std::move(x), {}}},
              {"p", ints(std::move(p))},
              {"s", ints({0, static_cast<int32_t>(n)})},
              {"n", ints({0})}})
        .at("y")
        .f;
  };
  EXPECT_EQ(y({1, 2, 3, 4}, {0, 1}), (std::vector<float>{1.5, 4, 13.5, 208}));
  EXPECT_EQ(y({5, 6}, {2}), (std::vector<float>{35.5, 412}));  // past inputs 3 and 4
}

TEST(GatedDeltaRule, ByHand) {
  const auto module = parse(
      "module @t stage(logical)\ndim T in [1, 8]\ndim S in [1, 2]\nstate @s slot : f32[1, 2, 1]\n"
      "graph @step(%x : f32[T, 5], %g : f32[T, 1], %b : f32[T, 1], %p : i32[T], %s : i32[S+1], "
      "%n : i32[S]) {\n"
      "  %y = gated_delta_rule %x, %g, %b, %p, %s, %n, @s {key_heads = 1, scale = 2} : "
      "f32[T, 1, 1]\n  return %y\n}\n");
  Evaluator e(*module, {});
  const float half = std::log(0.5f);
  const auto out = e.run("step", {{"T", 2}, {"S", 1}},
                         {{"x", {{DType::f32, {2, 5}}, {1, 0, 1, 2, 4, 1, 1, 0, 1, 8}, {}}},
                          {"g", {{DType::f32, {2, 1}}, {half, half}, {}}},
                          {"b", {{DType::f32, {2, 1}}, {0.5, 0.25}, {}}},
                          {"p", ints({0, 1})},
                          {"s", ints({0, 2})},
                          {"n", ints({1})}});
  // s = k * 0.5 * 4 = (2, 4); q . s * 2 = 4. Then s = (1, 2), k . s = 2, s = (1, 2 + 0.25 * 6).
  EXPECT_NEAR(out.at("y").f[0], 4, 1e-6);
  EXPECT_NEAR(out.at("y").f[1], 9, 1e-6);
  EXPECT_NEAR(e.state("s")->f[3], 3.5, 1e-6);
}

}  // namespace
}  // namespace shunt::ir
