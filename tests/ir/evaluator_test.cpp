// By-value checks of every eval_ function on cases small enough to work out by hand, and of the
// evaluator itself.
#include "ir/reference/evaluator.h"

#include <gtest/gtest.h>

#include <cmath>

namespace shunt::ir {
namespace {

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;
const float kNaN = std::nanf("");

Type type(DType dtype, const std::vector<int64_t>& shape) {
  return {dtype, {shape.begin(), shape.end()}};
}
Tensor floats(const std::vector<int64_t>& shape, Floats f, DType dtype = DType::f32) {
  return {type(dtype, shape), std::move(f), {}};
}
Tensor ints(const std::vector<int64_t>& shape, Ints i) {
  return {type(DType::i32, shape), {}, std::move(i)};
}

void expect_near(const Tensor& got, const Floats& wanted, float tolerance = 1e-6f) {
  ASSERT_EQ(got.f.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (std::isnan(wanted[i])) {
      EXPECT_TRUE(std::isnan(got.f[i])) << "element " << i << " is " << got.f[i];
    } else {
      EXPECT_NEAR(got.f[i], wanted[i], tolerance) << "element " << i;
    }
  }
}

/// A module of one graph, its evaluator, and values for its dims.
struct Subject {
  std::unique_ptr<Module> module;
  Evaluator evaluator;
  DimEnv dims;

  Subject(const std::string& text, DimEnv d, ReferenceOptions options = {})
      : module(parse(text)), evaluator(*module, std::move(options)), dims(std::move(d)) {
    verify(*module);
  }
  std::map<std::string, Tensor> run(const std::map<std::string, Tensor>& inputs,
                                    const std::string& graph = "step") {
    return evaluator.run(graph, dims, inputs);
  }
};

constexpr const char* kDims =
    "module @t stage(logical)\ndim T in [0, 16]\ndim S in [1, 4]\ndim R in [1, 4]\n";

/// Runs `body`, whose last line returns %y, with the given parameters set.
Tensor evaluate(const std::string& declarations, const std::string& inputs, const std::string& body,
                const std::map<std::string, Tensor>& params,
                const std::map<std::string, Tensor>& values, DimEnv dims) {
  Subject s(kDims + declarations + "graph @step(" + inputs + ") {\n" + body + "\nreturn %y\n}\n",
            std::move(dims));
  for (const auto& [name, value] : params) s.evaluator.set_param(name, value);
  return s.run(values).at("y");
}

TEST(Load, CheckpointStackTransposeStoreAndConstant) {
  std::vector<std::string> asked;
  ReferenceOptions options;
  options.checkpoint = [&](const std::string& name, DType dtype,
                           const std::vector<int64_t>& shape) {
    asked.push_back(name);
    const float base = name == "e.0.w" ? 0 : name == "e.1.w" ? 10 : 20;
    return floats(shape, {base + 1, base + 2}, dtype);
  };
  Subject s(
      std::string(kDims) +
          "param @e : bf16[2, 2, 1]\nparam @c : f32[2]\nparam @r : f32[2, 1]\n"
          "graph @load() {\n"
          "%a = checkpoint {tensor = \"e.*.w\", stack = 2, shape = [2, 1, 2]} : bf16[2, 1, 2]\n"
          "%b = transpose %a : bf16[2, 2, 1]\nstore %b, @e\n"
          "%d = constant {values = [0.5, 2]} : f32[2]\nstore %d, @c\n"
          "%f = checkpoint {tensor = \"r\", dtype = f32, shape = [1, 2]} : f32[1, 2]\n"
          "%g = transpose %f : f32[2, 1]\nstore %g, @r\nreturn\n}\n",
      {}, options);
  s.evaluator.load();
  EXPECT_EQ(asked, (std::vector<std::string>{"e.0.w", "e.1.w", "r"}));
  expect_near(*s.evaluator.param("e"), {1, 2, 11, 12});
  expect_near(*s.evaluator.param("c"), {0.5, 2});
  expect_near(*s.evaluator.param("r"), {21, 22});
}

TEST(Load, DummyIsNormalAndFixedByItsSeed) {
  const auto dummy = [](const std::string& attrs) {
    Subject s(std::string(kDims) + "param @p : f32[100, 100]\ngraph @load() {\n%a = dummy {" +
                  attrs +
                  "dtype = f32, shape = [100, 100]} : f32[100, 100]\nstore %a, @p\nreturn\n}\n",
              {});
    s.evaluator.load();
    return *s.evaluator.param("p");
  };
  const Tensor a = dummy("seed = 7, mean = 1, stddev = 2, ");
  double sum = 0, squares = 0;
  for (float x : a.f) sum += x, squares += (x - 1.0) * (x - 1.0);
  EXPECT_NEAR(sum / 1e4, 1, 0.08);
  EXPECT_NEAR(std::sqrt(squares / 1e4), 2, 0.05);
  EXPECT_EQ(a.f, dummy("seed = 7, mean = 1, stddev = 2, ").f);
  EXPECT_NE(a.f, dummy("seed = 8, mean = 1, stddev = 2, ").f);
  // splitmix64(0) = 0xE220A8397B1DCDAF; applied to that: 0xA706DD2F4D197E6F.
  const double u1 = (0xE220A8 + 1) * std::ldexp(1.0, -24), u2 = 0xA706DD * std::ldexp(1.0, -24);
  EXPECT_FLOAT_EQ(dummy("stddev = 1, ").f[0],
                  static_cast<float>(std::sqrt(-2 * std::log(u1)) * std::cos(2 * M_PI * u2)));
}

TEST(TensorOps, ConcatSliceReshapeTranspose) {
  const Tensor x = floats({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor y = evaluate(
      "", "%x : f32[T, 3], %z : f32[T, 1]",
      "%s = slice %x {axis = 1, begin = 1, end = 3} : f32[T, 2]\n"
      "%c = concat %z, %s {axis = 1} : f32[T, 3]\n"
      "%d = concat %c, %x : f32[2*T, 3]\n%y = reshape %d {shape = [T, 3, 2]} : f32[T, 3, 2]",
      {}, {{"x", x}, {"z", floats({2, 1}, {7, 8})}}, {{"T", 2}});
  expect_near(y, {7, 2, 3, 8, 5, 6, 1, 2, 3, 4, 5, 6});
  EXPECT_EQ(y.type.to_string(), "f32[2, 3, 2]");
}

TEST(TensorOps, EmbeddingAndGatherRows) {
  const Tensor table = floats({4, 2}, {0, 1, 10, 11, 20, 21, 30, 31});
  const Tensor y =
      evaluate("param @e : f32[4, 2]\n", "%ids : i32[T], %rows : i32[R]",
               "%x = embedding %ids, @e {out = f32, offset = 1} : f32[T, 2]\n"
               "%y = gather_rows %x, %rows : f32[R, 2]",
               {{"e", table}}, {{"ids", ints({3}, {0, 2, 1})}, {"rows", ints({2}, {1, 0})}},
               {{"T", 3}, {"R", 2}});
  expect_near(y, {30, 31, 10, 11});
}

TEST(TensorOps, IdsOutOfRangeAreErrors) {
  for (int32_t id : {-1, 4}) {
    EXPECT_THROW(
        evaluate("param @e : f32[4, 2]\n", "%ids : i32[T]",
                 "%y = embedding %ids, @e {out = f32} : f32[T, 2]",
                 {{"e", floats({4, 2}, Floats(8, 0))}}, {{"ids", ints({1}, {id})}}, {{"T", 1}}),
        UserError);
  }
}

TEST(TensorOps, PointwiseBroadcastsRowsAndColumns) {
  const Tensor y = evaluate(
      "param @v : f32[2]\n", "%x : f32[T, 2], %z : f32[T, 2], %c : f32[T, 1]",
      "%y = pointwise %x, %z, %c, @v {expr = \"(x0 - x1) * x2 + x3\", out = f32} : f32[T, 2]",
      {{"v", floats({2}, {100, 200})}},
      {{"x", floats({2, 2}, {1, 2, 3, 4})},
       {"z", floats({2, 2}, {1, 1, 1, 1})},
       {"c", floats({2, 1}, {2, -1})}},
      {{"T", 2}});
  expect_near(y, {100, 202, 98, 197});
}

TEST(TensorOps, PointwiseRoundsOnceToItsType) {
  const Tensor y =
      evaluate("", "%x : f32[T, 1]", "%y = pointwise %x {expr = \"x0 + 1\"} : bf16[T, 1]", {},
               {{"x", floats({2, 1}, {0.00390625f, 0.01171875f})}}, {{"T", 2}});
  expect_near(y, {1.0f, 1.015625f}, 0);  // ties go to even: bf16 has 7 fraction bits
}

TEST(TensorOps, GluSplitsColumns) {
  const Tensor y =
      evaluate("", "%x : f32[T, 4]", "%y = glu %x {expr = \"max(gate, 0) * up\"} : f32[T, 2]", {},
               {{"x", floats({1, 4}, {2, -3, 5, 7})}}, {{"T", 1}});
  expect_near(y, {10, 0});
}

TEST(Norms, Rms) {
  // mean square (9 + 16) / 2 = 12.5, eps 12.5: scale 1 / 5
  const std::map<std::string, Tensor> w = {{"w", floats({2}, {1, 10})}},
                                      x = {{"x", floats({1, 2}, {3, -4})}};
  expect_near(evaluate("param @w : f32[2]\n", "%x : f32[T, 2]",
                       "%y = rms_norm %x, @w {eps = 12.5} : f32[T, 2]", w, x, {{"T", 1}}),
              {0.6f, -8});
  expect_near(
      evaluate("param @w : f32[2]\n", "%x : f32[T, 2]",
               "%y = rms_norm %x, @w {eps = 12.5, plus_one = true} : f32[T, 2]", w, x, {{"T", 1}}),
      {1.2f, -8.8f});
}

TEST(Norms, Layer) {
  // mean 5, variance 4, eps 12: scale 1 / 4
  expect_near(evaluate("param @w : f32[2]\nparam @b : f32[2]\n", "%x : f32[T, 2]",
                       "%y = layer_norm %x, @w, @b {eps = 12} : f32[T, 2]",
                       {{"w", floats({2}, {1, 2})}, {"b", floats({2}, {100, 200})}},
                       {{"x", floats({1, 2}, {3, 7})}}, {{"T", 1}}),
              {99.5f, 201});
}

TEST(Norms, AddNormReadsTheUnroundedSum) {
  Subject s(std::string(kDims) +
                "param @w : f32[2]\ngraph @step(%x : bf16[T, 2], %z : bf16[T, 2]) {\n"
                "%s, %n = add_norm %x, %z, @w {kind = layer, eps = 0} : bf16[T, 2], bf16[T, 2]\n"
                "return %s, %n\n}\n",
            {{"T", 1}});
  s.evaluator.set_param("w", floats({2}, {1, 1}));
  const auto out = s.run({{"x", floats({1, 2}, {1, 1}, DType::bf16)},
                          {"z", floats({1, 2}, {0.00390625f, 0}, DType::bf16)}});
  expect_near(out.at("s"), {1, 1}, 0);  // 1 + 2^-8 rounds down
  expect_near(out.at("n"), {1, -1});    // the norm still sees the difference
}

TEST(Linear, EpilogueWithBiasAndResidual) {
  const Tensor y = evaluate(
      "param @w : f32[2, 3]\nparam @b : f32[2]\n", "%x : f32[T, 3], %h : f32[T, 2]",
      "%y = linear %x, @w, @b, %h {epilogue = \"relu(acc + x0) + x1\", out = f32} : f32[T, 2]",
      {{"w", floats({2, 3}, {1, 0, 2, 0, -1, 0})}, {"b", floats({2}, {1, 2})}},
      {{"x", floats({2, 3}, {1, 2, 3, 0, 4, 0})}, {"h", floats({2, 2}, {10, 20, 30, 40})}},
      {{"T", 2}});
  expect_near(y, {18, 20, 31, 40});
}

TEST(Linear, Glu) {
  const Tensor y = evaluate(
      "param @w : f32[4, 1]\n", "%x : f32[T, 1]",
      "%y = linear %x, @w {epilogue = \"gate * 10 + up\", glu = true, out = f32} : f32[T, 2]",
      {{"w", floats({4, 1}, {1, 2, 3, 4})}}, {{"x", floats({1, 1}, {2})}}, {{"T", 1}});
  expect_near(y, {26, 48});
}

TEST(Attention, RopeRotatesHalvesOrPairs) {
  const Tensor x = floats({1, 1, 5}, {1, 2, 3, 4, 5});
  const std::map<std::string, Tensor> f = {{"f", floats({2}, {static_cast<float>(M_PI / 4), 0})}};
  const auto rope = [&](const std::string& attrs) {
    return evaluate("param @f : f32[2]\n", "%x : f32[T, 1, 5], %p : i32[T]",
                    "%y = rope %x, %p, @f" + attrs + " : f32[T, 1, 5]", f,
                    {{"x", x}, {"p", ints({1}, {2})}}, {{"T", 1}});
  };
  expect_near(rope(""), {-3, 2, 1, 4, 5});  // a quarter turn of (1, 3); no turn of (2, 4)
  expect_near(rope(" {interleaved = true}"), {-2, 1, 3, 4, 5});
  expect_near(rope(" {scale = 2}"), {-6, 4, 2, 8, 5});
}

constexpr const char* kStates = "page_size 2\nstate @k : f32[1, 1]\nstate @v : f32[1, 2]\n";
constexpr const char* kBatch =
    "%q : f32[T, 2, 1], %k : f32[T, 1, 1], %v : f32[T, 1, 2], %p : i32[T], %starts : i32[S+1], "
    "%lens : i32[S], "
    "%blocks : i32[S, 2]";

std::string attention_module(const std::string& tail, const std::string& attrs) {
  return std::string(kDims) + kStates + "param @sinks : f32[2]\ngraph @step(" + kBatch +
         ") {\nkv_append %k, %v, %p, %starts, %blocks, @k, @v\n%y = attention %q, %starts, %lens, "
         "%blocks, @k, @v" +
         tail + attrs + " : f32[T, 4]\nreturn %y\n}\n";
}

TEST(Attention, ValuesMayBeginTheKeysRows) {
  // Keys [x, y, z] with values [x, y], against a state of its own for the values.
  const std::string head =
      "module @t stage(logical)\npage_size 2\ndim T in [1, 8]\n"
      "dim S in [1, 4]\nstate @k : f32[1, 3]\n";
  const std::string inputs =
      "graph @step(%q : f32[T, 2, 3], %k : f32[T, 1, 3], %v : f32[T, 1, 2], %p : i32[T], %starts "
      ": i32[S+1], %lens : i32[S], %blocks : i32[S, 2]) {\n";
  const auto text = [&](const std::string& state, const std::string& v, const std::string& attrs) {
    return head + state + inputs + "kv_append %k, " + (v == "none" ? "none" : "%v") +
           ", %p, %starts, %blocks, @k, " + v +
           "\n%y = attention %q, %starts, %lens, %blocks, @k, " + v + " {scale = 0.5" + attrs +
           "} : f32[T, 4]\nreturn %y\n}\n";
  };
  const std::map<std::string, Tensor> in = {
      {"q", floats({3, 2, 3}, {1, 0, -1, 2, 1, 0, 0, 1, 1, -1, 2, 0, 1, 1, 1, 0, 0, 2})},
      {"k", floats({3, 1, 3}, {1, 2, 3, -1, 0, 2, 4, 1, 0})},
      {"v", floats({3, 1, 2}, {1, 2, -1, 0, 4, 1})},
      {"p", ints({3}, {0, 1, 2})},
      {"starts", ints({2}, {0, 3})},
      {"lens", ints({1}, {3})},
      {"blocks", ints({1, 2}, {1, 0})}};
  const DimEnv dims = {{"T", 3}, {"S", 1}};
  const auto own = parse(text("state @v : f32[1, 2]\n", "@v", ""));
  const auto shared = parse(text("", "none", ", value_dim = 2"));
  Evaluator a(*own, {.pages = 2, .checkpoint = {}}), b(*shared, {.pages = 2, .checkpoint = {}});
  EXPECT_EQ(a.run("step", dims, in).at("y").f, b.run("step", dims, in).at("y").f);
}

TEST(HeadLinear, AMatrixAHead) {
  const auto module = parse(
      "module @t stage(logical)\ndim T in [1, 4]\nparam @w : f32[2, 1, 2]\n"
      "graph @step(%x : f32[T, 2, 2]) {\n%y = head_linear %x, @w {out = f32} : f32[T, 2, 1]\n"
      "return %y\n}\n");
  Evaluator e(*module, {});
  e.set_param("w", floats({2, 1, 2}, {1, 10, 100, 1000}));
  const auto out = e.run("step", {{"T", 2}}, {{"x", floats({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8})}});
  EXPECT_EQ(out.at("y").f, (std::vector<float>{21, 4300, 65, 8700}));
}

/// Two sequences over interleaved pages: the first has 3 tokens, the second 1.
std::map<std::string, Tensor> prefill() {
  return {{"q", floats({4, 2, 1}, Floats(8, 0))},
          {"k", floats({4, 1, 1}, {1, 2, 3, 4})},
          {"v", floats({4, 1, 2}, {1, 10, 3, 30, 8, 80, 5, 50})},
          {"p", ints({4}, {0, 1, 2, 0})},
          {"starts", ints({3}, {0, 3, 4})},
          {"lens", ints({2}, {3, 1})},
          {"blocks", ints({2, 2}, {3, 0, 2, 1})}};
}

TEST(Attention, PagedStateAndCausalMean) {
  Subject s(attention_module("", ""), {{"T", 4}, {"S", 2}}, {.pages = 4, .checkpoint = {}});
  // q = 0: every visible key has the same weight
  expect_near(s.run(prefill()).at("y"), {1, 10, 1, 10, 2, 20, 2, 20, 4, 40, 4, 40, 5, 50, 5, 50});
  expect_near(*s.evaluator.state("k"), {3, kNaN, kNaN, kNaN, 4, kNaN, 1, 2});  // pages 0, 1, 2, 3
  // The next token of the first sequence only; the second is idle.
  s.dims = {{"T", 1}, {"S", 2}};
  const auto out = s.run({{"q", floats({1, 2, 1}, {0, 0})},
                          {"k", floats({1, 1, 1}, {7})},
                          {"v", floats({1, 1, 2}, {0, -20})},
                          {"p", ints({1}, {3})},
                          {"starts", ints({3}, {0, 1, 1})},
                          {"lens", ints({2}, {4, 1})},
                          {"blocks", ints({2, 2}, {3, 0, 2, 1})}});
  expect_near(out.at("y"), {3, 25, 3, 25});
}

TEST(Attention, TokensPastTheLastSequenceAreUndefinedAndNotWritten) {
  Subject s(attention_module("", ""), {{"T", 4}, {"S", 2}}, {.pages = 4, .checkpoint = {}});
  auto inputs = prefill();
  inputs["starts"] = ints({3}, {0, 3, 3});
  inputs["lens"] = ints({2}, {3, 0});
  const Tensor y = s.run(inputs).at("y");
  EXPECT_TRUE(std::isnan(y.f[12]));
  EXPECT_FALSE(std::isnan(y.f[11]));
  EXPECT_TRUE(std::isnan(s.evaluator.state("k")->f[4]));
}

TEST(Attention, ScoresWindowChunkSinksAndSoftcap) {
  const auto last_token = [](const std::string& tail, const std::string& attrs, float q) {
    Subject s(attention_module(tail, attrs), {{"T", 4}, {"S", 2}}, {.pages = 4, .checkpoint = {}});
    s.evaluator.set_param("sinks", floats({2}, {0, static_cast<float>(std::log(3))}));
    auto inputs = prefill();
    inputs["q"].f.assign(8, q);
    const Tensor y = s.run(inputs).at("y");
    return Floats(y.f.begin() + 8,
                  y.f.begin() + 12);  // third token of the first sequence, two heads
  };
  // keys 1, 2, 3; q = ln 2 / scale...: weights 2, 4, 8 over 14
  const float mean = (2 * 1 + 4 * 3 + 8 * 8) / 14.0f;
  EXPECT_NEAR(last_token("", " {scale = 0.5}", static_cast<float>(2 * std::log(2)))[0], mean, 1e-5);
  EXPECT_FLOAT_EQ(last_token("", " {window = 2}", 0)[0], 5.5f);
  EXPECT_FLOAT_EQ(last_token("", " {chunk = 2}", 0)[0], 8);
  EXPECT_FLOAT_EQ(last_token(", @sinks", "", 0)[0], 12 / 4.0f);  // a sink of e^0 beside three keys
  EXPECT_FLOAT_EQ(last_token(", @sinks", "", 0)[2], 12 / 6.0f);
  const double e1 = std::exp(std::tanh(1.0)), e2 = std::exp(std::tanh(2.0)),
               e3 = std::exp(std::tanh(3.0));
  EXPECT_NEAR(last_token("", " {softcap = 1}", 1)[0], (e1 + 3 * e2 + 8 * e3) / (e1 + e2 + e3),
              1e-5);
}

TEST(Attention, BadBatchesAreErrors) {
  const auto fails = [](const std::string& input, const Tensor& value) {
    Subject s(attention_module("", ""), {{"T", 4}, {"S", 2}}, {.pages = 4, .checkpoint = {}});
    auto inputs = prefill();
    inputs[input] = value;
    EXPECT_THROW(s.run(inputs), UserError) << input;
  };
  fails("blocks", ints({2, 2}, {4, 0, 2, 1}));
  fails("p", ints({4}, {0, 1, 4, 0}));
  fails("starts", ints({3}, {0, 3, 5}));
  fails("lens", ints({2}, {2, 1}));
  fails("lens", ints({3}, {3, 1, 1}));
}

TEST(Attention, RopeAppendNormsRotatesAndAppends) {
  Subject s(
      std::string(kDims) +
          "page_size 2\nstate @k : f32[1, 2]\nstate @v : f32[1, 2]\nparam @f : f32[1]\n"
          "param @qn : f32[2]\nparam @kn : f32[2]\n"
          "graph @step(%x : f32[T, 8], %p : i32[T], %starts : i32[S+1], %blocks : i32[S, 2]) {\n"
          "%y = rope_append %x, %p, @f, @qn, @kn, %starts, %blocks, @k, @v {heads = 2, kv_heads = "
          "1, "
          "head_dim = 2, norm = head, eps = 0} : f32[T, 2, 2]\nreturn %y\n}\n",
      {{"T", 1}, {"S", 1}}, {.pages = 2, .checkpoint = {}});
  s.evaluator.set_param("f", floats({1}, {static_cast<float>(M_PI / 2)}));
  s.evaluator.set_param("qn", floats({2}, {1, 2}));
  s.evaluator.set_param("kn", floats({2}, {5, 10}));
  const float r = std::sqrt(12.5f);
  const auto out = s.run({{"x", floats({1, 8}, {3, 4, 6, 8, 4, 3, 70, 80})},
                          {"p", ints({1}, {1})},
                          {"starts", ints({2}, {0, 1})},
                          {"blocks", ints({1, 2}, {1, 0})}});
  expect_near(out.at("y"),
              {-8 / r, 3 / r, -8 / r, 3 / r});  // (3, 4) and (6, 8), normed, a quarter turn
  expect_near(*s.evaluator.state("k"), {kNaN, kNaN, kNaN, kNaN, kNaN, kNaN, -30 / r, 20 / r},
              1e-5f);
  expect_near(*s.evaluator.state("v"), {kNaN, kNaN, kNaN, kNaN, kNaN, kNaN, 70, 80});
}

struct Routes {
  Floats w;
  Ints ids;
};

Routes route(const std::string& attrs, const Floats& logits, const Floats& bias = {},
             const Ints& forced = {}) {
  const auto n = static_cast<int64_t>(logits.size());
  const std::string e = std::to_string(n), k = attrs.find("k = 3") == std::string::npos ? "2" : "3";
  Subject s(std::string(kDims) + "graph @step(%l : f32[T, " + e + "], %b : f32[" + e +
                "], %f : i32[T, " + k + "]) {\n%w, %ids = topk_gate %l, " +
                (bias.empty() ? "none" : "%b") + ", " + (forced.empty() ? "none" : "%f") + " {" +
                attrs + "} : f32[T, " + k + "], i32[T, " + k + "]\nreturn %w, %ids\n}\n",
            {{"T", 1}});
  const auto out =
      s.run({{"l", floats({1, n}, logits)},
             {"b", floats({n}, bias.empty() ? Floats(logits.size(), 0) : bias)},
             {"f", ints({1, std::stoll(k)}, forced.empty() ? Ints(std::stoul(k), -1) : forced)}});
  return {out.at("w").f, out.at("ids").i};
}

TEST(Routing, ScoresAndNormalisation) {
  const Floats logits = {static_cast<float>(std::log(1)), static_cast<float>(std::log(4)),
                         static_cast<float>(std::log(2)), static_cast<float>(std::log(3))};
  const auto expect = [&](const std::string& attrs, const Floats& w) {
    const Routes r = route(attrs, logits);
    EXPECT_EQ(r.ids, (Ints{1, 3}));
    for (size_t j = 0; j < 2; ++j) EXPECT_NEAR(r.w[j], w[j], 1e-6) << attrs;
  };
  expect("k = 2", {0.4f, 0.3f});
  expect("k = 2, norm = sum", {4 / 7.0f, 3 / 7.0f});
  expect("k = 2, norm = sum, norm_eps = 0.3, scale = 10", {4, 3});
  expect("k = 2, norm = sum, norm_min = 10", {0.04f, 0.03f});
  expect("k = 2, score = sigmoid", {0.8f, 0.75f});
  expect("k = 2, score = sqrt_softplus", {std::sqrt(std::log(5.0f)), std::sqrt(std::log(4.0f))});
  expect("k = 2, score = identity", {std::log(4.0f), std::log(3.0f)});
  expect("k = 2, score = identity, norm = softmax, scale = 7", {4, 3});
}

TEST(Routing, SparseMixerWeighsEachChoiceAmongWhatIsNearAndLeft) {
  // 1.9 is within 20 % of 2, nothing left is within 20 % of 1.9.
  const Routes r = route("k = 2, score = sparse_mixer, jitter = 0.2", {1, 2, 1.9f, -3});
  EXPECT_EQ(r.ids, (Ints{1, 2}));
  EXPECT_NEAR(r.w[0], 1 / (1 + std::exp(-0.1)), 1e-6);
  EXPECT_NEAR(r.w[1], 1, 1e-6);
}

TEST(Routing, TiesGoToTheLowestId) {
  EXPECT_EQ(route("k = 2, score = identity", {1, 3, 2, 3, 3}).ids, (Ints{1, 3}));
}

TEST(Routing, SelectionBiasChoosesButDoesNotWeigh) {
  const Routes r = route("k = 2, score = identity", {5, 4, 3, 2}, {0, 0, 10, 0});
  EXPECT_EQ(r.ids, (Ints{2, 0}));
  EXPECT_EQ(r.w, (Floats{3, 5}));
}

TEST(Routing, Groups) {
  const Floats logits = {9, 0, 5, 6, 7, 1};  // groups of 2: max 9, 6, 7; sums 9, 11, 8
  EXPECT_EQ(route("k = 2, score = identity, groups = 3", logits).ids, (Ints{0, 1}));
  EXPECT_EQ(route("k = 2, score = identity, groups = 3, keep_groups = 2", logits).ids,
            (Ints{0, 4}));
  EXPECT_EQ(route("k = 2, score = identity, groups = 3, group_score = top2_sum", logits).ids,
            (Ints{3, 2}));
}

TEST(Routing, ForcedIdsKeepTheRowsOwnScores) {
  const Floats logits = {1, 2, 3, 4};
  Routes r = route("k = 2, score = identity, norm = sum", logits, {}, {0, 2});
  EXPECT_EQ(r.ids, (Ints{0, 2}));
  EXPECT_EQ(r.w, (Floats{0.25f, 0.75f}));
  EXPECT_EQ(route("k = 2, score = identity", logits, {}, {-1, 0}).ids, (Ints{3, 2}));
  EXPECT_THROW(route("k = 2, score = identity", logits, {}, {4, 0}), UserError);
}

TEST(Routing, NormGateIsAddNormLinearTopk) {
  Subject s(std::string(kDims) +
                "param @nw : f32[2]\nparam @r : f32[3, 2]\nparam @rb : f32[3]\n"
                "graph @step(%x : f32[T, 2], %y : f32[T, 2]) {\n"
                "%s, %n, %l, %w, %ids = norm_gate %x, %y, @nw, @r, @rb, none, none {k = 1, score = "
                "identity, eps = "
                "12.5} : f32[T, 2], f32[T, 2], f32[T, 3], f32[T, 1], i32[T, 1]\nreturn %s, %n, %l, "
                "%w, %ids\n}\n",
            {{"T", 1}});
  s.evaluator.set_param("nw", floats({2}, {1, 1}));
  s.evaluator.set_param("r", floats({3, 2}, {5, 0, 0, 5, 5, 5}));
  s.evaluator.set_param("rb", floats({3}, {0, 10, 0}));
  const auto out = s.run({{"x", floats({1, 2}, {1, 1})}, {"y", floats({1, 2}, {2, -5})}});
  expect_near(out.at("s"), {3, -4});
  expect_near(out.at("n"), {0.6f, -0.8f});
  expect_near(out.at("l"), {3, 6, -1});
  expect_near(out.at("w"), {6});
  EXPECT_EQ(out.at("ids").i, Ints{1});
}

constexpr const char* kExperts = "param @w : f32[3, 2, 1]\nparam @b : f32[3, 2]\n";
const std::map<std::string, Tensor> kExpertValues = {
    {"w", floats({3, 2, 1}, {1, 2, 10, 20, 100, 200})}, {"b", floats({3, 2}, {1, 1, 2, 2, 3, 3})}};

TEST(Experts, RoutedLinearPerTokenAndPerRoute) {
  const Tensor ids = ints({2, 2}, {2, 0, -1, 1});
  expect_near(
      evaluate(
          kExperts, "%x : f32[T, 1], %ids : i32[T, 2]",
          "%y = routed_linear %x, @w, %ids, @b {epilogue = \"acc + x0\", out = f32} : f32[2*T, 2]",
          kExpertValues, {{"x", floats({2, 1}, {1, 2})}, {"ids", ids}}, {{"T", 2}}),
      {103, 203, 2, 3, kNaN, kNaN, 22, 42});
  expect_near(evaluate("param @w : f32[3, 2, 1]\n", "%x : f32[2*T, 1], %ids : i32[T, 2]",
                       "%y = routed_linear %x, @w, %ids {epilogue = \"gate - up\", glu = true, out "
                       "= f32} : f32[2*T, 1]",
                       {{"w", kExpertValues.at("w")}},
                       {{"x", floats({4, 1}, {1, 2, 3, 4})}, {"ids", ids}}, {{"T", 2}}),
              {-100, -2, kNaN, -40});
}

TEST(Experts, RouteSortKeepsOrderAndDropsUnrouted) {
  Subject s(std::string(kDims) +
                "graph @step(%ids : i32[T, 2]) {\n"
                "%o, %r = route_sort %ids {experts = 3} : i32[4], i32[2*T]\nreturn %o, %r\n}\n",
            {{"T", 3}});
  const auto out = s.run({{"ids", ints({3, 2}, {2, 0, -1, 2, 0, 2})}});
  EXPECT_EQ(out.at("o").i, (Ints{0, 2, 2, 5}));
  EXPECT_EQ(out.at("r").i, (Ints{1, 4, 0, 3, 5, -1}));
  EXPECT_THROW(s.run({{"ids", ints({3, 2}, {2, 0, -1, 3, 0, 2})}}), UserError);
}

TEST(Experts, GroupedLinearGathersAndScatters) {
  const auto grouped = [](const std::string& rows, const std::string& attrs, const Tensor& x) {
    return evaluate(kExperts, "%x : f32[" + rows + ", 1], %o : i32[4], %r : i32[2*T]",
                    "%y = grouped_linear %x, @w, %o, %r, @b {epilogue = \"acc + x0\", out = f32" +
                        attrs + "} : f32[2*T, 2]",
                    kExpertValues,
                    {{"x", x}, {"o", ints({4}, {0, 1, 1, 3})}, {"r", ints({4}, {3, 0, 2, -1})}},
                    {{"T", 2}});
  };
  const Tensor tokens = floats({2, 1}, {1, 2}), sorted = floats({4, 1}, {1, 2, 3, 4});
  expect_near(grouped("T", ", gather = 2", tokens), {3, 5, 103, 203, 203, 403, kNaN, kNaN});
  expect_near(grouped("2*T", "", sorted), {2, 3, 203, 403, 303, 603, kNaN, kNaN});
  expect_near(grouped("2*T", ", scatter = true", sorted), {203, 403, kNaN, kNaN, 303, 603, 2, 3});
}

TEST(Experts, CombineIgnoresDroppedRoutes) {
  const std::map<std::string, Tensor> in = {{"r", floats({4, 1}, {1, 2, kNaN, 4})},
                                            {"w", floats({2, 2}, {10, 100, 0, 0.5f})},
                                            {"ids", ints({2, 2}, {0, 1, -1, 0})},
                                            {"h", floats({2, 1}, {1000, 2000})}};
  const std::string inputs = "%r : f32[2*T, 1], %w : f32[T, 2], %ids : i32[T, 2], %h : f32[T, 1]";
  expect_near(evaluate("", inputs, "%y = combine_routes %r, %w, %ids, none : f32[T, 1]", {}, in,
                       {{"T", 2}}),
              {210, 2});
  expect_near(
      evaluate("", inputs, "%y = combine_routes %r, %w, %ids, %h : f32[T, 1]", {}, in, {{"T", 2}}),
      {1210, 2002});
}

int32_t sample(const Floats& logits, float temperature, int32_t top_k, float top_p, float uniform) {
  Subject s(std::string(kDims) + "graph @sample(%l : f32[R, " + std::to_string(logits.size()) +
                "], %t : f32[R], %k : i32[R], %p : f32[R], %u : f32[R]) {\n"
                "%y = sample %l, %t, %k, %p, %u : i32[R]\nreturn %y\n}\n",
            {{"R", 1}});
  return s
      .run({{"l", floats({1, static_cast<int64_t>(logits.size())}, logits)},
            {"t", floats({1}, {temperature})},
            {"k", ints({1}, {top_k})},
            {"p", floats({1}, {top_p})},
            {"u", floats({1}, {uniform})}},
           "sample")
      .at("y")
      .i[0];
}

TEST(Sample, GreedyTakesTheLowestOfEquals) { EXPECT_EQ(sample({1, 5, 5, 2}, 0, 0, 1, 0.99f), 1); }

TEST(Sample, WalksIdsInAscendingOrder) {
  const Floats logits = {std::log(1.0f), std::log(4.0f), std::log(2.0f),
                         std::log(3.0f)};  // 0.1 0.4 0.2 0.3
  EXPECT_EQ(sample(logits, 1, 0, 1, 0.05f), 0);
  EXPECT_EQ(sample(logits, 1, 0, 1, 0.15f), 1);
  EXPECT_EQ(sample(logits, 1, 0, 1, 0.65f), 2);
  EXPECT_EQ(sample(logits, 1, 0, 1, 0.9999f), 3);
  EXPECT_EQ(sample(logits, 1, 2, 1, 0.01f), 1);  // top_k 2 keeps ids 1 and 3: 4/7, 3/7
  EXPECT_EQ(sample(logits, 1, 2, 1, 0.6f), 3);
  EXPECT_EQ(sample(logits, 1, 0, 0.75f, 0.99f), 3);  // 0.4 + 0.3 + 0.2 reaches it: ids 1, 2, 3
  EXPECT_EQ(sample(logits, 1, 0, 0.75f, 0.0f), 1);
  EXPECT_EQ(sample(logits, 1, 0, 0.0f, 0.99f), 1);  // at least one
  EXPECT_EQ(sample(logits, 0.5f, 0, 1, 0.03f), 0);  // temperature 1/2 squares: 1 16 4 9 over 30
  EXPECT_EQ(sample(logits, 0.5f, 0, 1, 0.04f), 1);
}

TEST(EvaluatorTest, MissingAndIllTypedInputsAreErrors) {
  Subject s(std::string(kDims) +
                "param @p : f32[2]\ngraph @step(%x : f32[T, 2]) {\n"
                "%y = rms_norm %x, @p : f32[T, 2]\nreturn %y\n}\n",
            {{"T", 1}});
  EXPECT_THROW(s.run({}), UserError);
  EXPECT_THROW(s.run({{"x", floats({2, 2}, Floats(4, 1))}}), UserError);
  EXPECT_THROW(s.run({{"x", floats({1, 2}, {1, 1})}}), UserError) << "@p has no value";
  EXPECT_THROW(s.run({}, "none"), UserError);
  EXPECT_THROW(s.evaluator.set_param("q", floats({2}, {1, 1})), UserError);
  EXPECT_THROW(s.evaluator.set_param("p", floats({3}, {1, 1, 1})), UserError);
  s.evaluator.set_param("p", floats({2}, {1, 1}));
  expect_near(s.run({{"x", floats({1, 2}, {1, 1})}}).at("y"), {1, 1}, 1e-4f);
}

TEST(EvaluatorTest, ProbesSeeEveryResultAndAnEmptyBatchRuns) {
  Subject s(std::string(kDims) +
                "graph @step(%x : f32[T, 2]) {\n%a = pointwise %x {expr = \"x0 + 1\", out = f32} : "
                "f32[T, 2]\n%y = glu %a {expr = \"gate + up\"} : f32[T, 1]\nreturn %y\n}\n",
            {{"T", 1}});
  std::vector<std::string> seen;
  s.evaluator.run(
      "step", {{"T", 1}}, {{"x", floats({1, 2}, {1, 1})}},
      [&](const Value& v, const Tensor& t) { seen.push_back(v.name + t.type.to_string()); });
  EXPECT_EQ(seen, (std::vector<std::string>{"af32[1, 2]", "yf32[1, 1]"}));
  EXPECT_TRUE(s.evaluator.run("step", {{"T", 0}}, {{"x", floats({0, 2}, {})}}).at("y").f.empty());
}

}  // namespace
}  // namespace shunt::ir
