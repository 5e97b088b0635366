// Cases of the ops that move or map elements, of norms, rope and sample. Entry points op_cases(),
// tensor_cases(). Run by op_cpu_test.cpp and op_gpu_test.cpp.
#include "tests/kernels/op_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/kernels/op_cases_text.h"

namespace shunt::test {

const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> cases = [] {
    std::vector<OpCase> all;
    for (auto* family : {tensor_cases, linear_cases, moe_cases, attention_cases, recurrent_cases}) {
      for (OpCase& c : family()) all.push_back(std::move(c));
    }
    return all;
  }();
  return cases;
}

namespace {

using Cases = std::vector<OpCase>;

const std::string kTypes[] = {"f32", "bf16", "f16"};
bool is_f32(const std::string& type) { return type == "f32"; }

void add(Cases& cases, const std::string& name, const std::string& body, std::vector<OpRun> runs,
         bool cpu) {
  int64_t most = 1;  // ports have room for the upper bounds, so those are kept small
  for (const OpRun& r : runs) most = std::max(most, r.tokens[0]);
  cases.push_back({case_name(name), module_text(body, most + 8), std::move(runs), cpu});
}

// ---- embedding, gather_rows ----

void add_rows(Cases& cases) {
  int index = 0;
  for (const int64_t h : {1, 8, 20, 129, 1000, 2048}) {
    const std::string a = kTypes[index % 3], w = kTypes[(index / 2 + 1) % 3];
    const int64_t v = std::max<int64_t>(3, 7 * index * index), offset = index % 2 == 0 ? 0 : 2;
    ++index;
    for (const std::string& out : {a, std::string("f32")}) {
      if (out == "f32" && a == "f32" && &out != &a && h == 1) continue;
      const std::string body = fmt::format(
          "param @table : {w}[{v}, {h}]\n"
          "graph @step(%tokens : i32[T], %x : {o}[T, {h}], %logit_rows : i32[R]) {{\n"
          "  %e = embedding %tokens, @table {{out = {o}, offset = {off}}} : {o}[T, {h}]\n"
          "  %g = gather_rows %x, %logit_rows : {o}[R, {h}]\n"
          "  return %e, %g\n}}\n",
          fmt::arg("w", w), fmt::arg("v", v), fmt::arg("h", h), fmt::arg("o", out),
          fmt::arg("off", offset));
      const std::string name = fmt::format("rows_{}_{}_h{}", out, w, h);
      const auto same = [&](const OpCase& c) { return c.name == name; };
      if (std::any_of(cases.begin(), cases.end(), same)) continue;
      add(cases, name, body, {{{1}, false, 1}, {{5}, false, 3}, {{257}, false, 9}}, is_f32(out));
    }
  }
}

// ---- shard, local_routes, a part of an embedding table: what one of several ranks does ----

void add_parts(Cases& cases) {
  for (const std::string& t : kTypes) {
    for (const auto& [n, m] : {std::pair{3, 5}, std::pair{16, 40}, std::pair{64, 1}}) {
      add(cases, fmt::format("shard_{}_{}_{}", t, n, m),
          fmt::format(
              "graph @step(%a : {t}[T, {n}, {m}]) {{\n"
              "  %y = shard %a {{axis = 1, size = {s}, runs = [[1, {n}]]}} : {t}[T, {s}, {m}]\n"
              "  %z = shard %a {{axis = 2, size = {m}, runs = [[]]}} : {t}[T, {n}, {m}]\n"
              "  return %y, %z\n}}\n",
              fmt::arg("t", t), fmt::arg("n", n), fmt::arg("m", m), fmt::arg("s", n + 2)),
          runs_of({1, 2, 37}), is_f32(t));
    }
  }
  // Of 5 experts this rank (the only one: position 0) has three in slots 0, 1, 2, one of them in
  // part.
  std::vector<float> table;
  for (const auto& row : {std::pair{0.f, 1.f}, {1.f, 1.f}, {1.f, 0.375f}, {0.f, 1.f}, {1.f, 1.f}}) {
    const float slot = static_cast<float>(table.size() / 6);
    table.insert(table.end(), {row.first, slot, row.second, 0.f, slot, row.second < 1 ? 1.f : 0.f});
  }
  const size_t first = cases.size();
  add(cases, "local_routes",
      "param @table : f32[30]\n"
      "graph @step(%l : f32[T, 5]) {\n"
      "  %w, %ids = topk_gate %l {k = 2} : f32[T, 2], i32[T, 2]\n"
      "  %y = local_routes %ids, @table {experts = 5, replicas = 2} : i32[T, 2]\n"
      "  return %ids, %y\n}\n",
      runs_of({1, 2, 300}), true);
  cases[first].adjust = [table](const std::string& name, int, ir::Tensor& value) {
    if (name == "table") value.f = table;
  };
}

// ---- concat, slice, reshape ----

void add_shapes(Cases& cases) {
  for (const std::string& t : kTypes) {
    for (const auto& [n, m] : {std::pair{3, 5}, std::pair{8, 24}, std::pair{64, 128}}) {
      add(cases, fmt::format("concat_{}_{}_{}", t, n, m),
          fmt::format("graph @step(%a : {t}[T, {n}], %b : {t}[T, {m}], %c : {t}[{n}, T, 2], "
                      "%d : {t}[{m}, T, 2]) {{\n"
                      "  %y = concat %a, %b, %a {{axis = 1}} : {t}[T, {s}]\n"
                      "  %z = concat %c, %d {{axis = 0}} : {t}[{u}, T, 2]\n"
                      "  %w = concat %a, %a : {t}[2*T, {n}]\n"
                      "  return %y, %z, %w\n}}\n",
                      fmt::arg("t", t), fmt::arg("n", n), fmt::arg("m", m),
                      fmt::arg("s", 2 * n + m), fmt::arg("u", n + m)),
          runs_of({1, 2, 37}), is_f32(t));
      add(cases, fmt::format("slice_{}_{}_{}", t, n, m),
          fmt::format("graph @step(%a : {t}[T, {m}], %b : {t}[{m}, T]) {{\n"
                      "  %y = slice %a {{axis = 1, begin = 1, end = {n}}} : {t}[T, {k}]\n"
                      "  %z = slice %b {{begin = {n}, end = {m}}} : {t}[{l}, T]\n"
                      "  %p = reshape %a {{shape = [{m}*T]}} : {t}[{m}*T]\n"
                      "  %v = reshape %y {{shape = [T, 1, {k}]}} : {t}[T, 1, {k}]\n"
                      "  %w = pointwise %v {{expr = \"x0 * 2\", out = {t}}} : {t}[T, 1, {k}]\n"
                      "  return %y, %z, %p, %w\n}}\n",
                      fmt::arg("t", t), fmt::arg("n", n), fmt::arg("m", m), fmt::arg("k", n - 1),
                      fmt::arg("l", m - n)),
          runs_of({1, 2, 37}), is_f32(t));
    }
  }
}

// ---- pointwise, glu ----

void add_pointwise(Cases& cases) {
  const char* exprs[] = {
      "silu(x0) * x1 + x2 - x3",
      "gelu(x0) + gelu_tanh(x1) * quick_gelu(x2) / (2 + abs(x3))",
      "relu(x0) - sigmoid(x1) * tanh(x2) + exp(x3)",
      "sqrt(abs(x0)) * rsqrt(abs(x1) + 0.5) + min(x2, x3) - -max(x0, x1)",
      "clamp(x0, -0.25, 0.5) * x1 + x2 * x3",
  };
  int index = 0;
  for (const int64_t n : {1, 7, 20, 64, 1000}) {
    for (const std::string& t : kTypes) {
      const std::string o = index % 2 == 0 ? t : "f32", x = is_f32(t) ? "f32" : kTypes[index % 3];
      add(cases, fmt::format("pointwise_{}_{}_{}", t, o, n),
          fmt::format("param @w : {p}[{n}]\n"
                      "graph @step(%a : {t}[T, {n}], %b : {x}[T, {n}], %c : {t}[T, 1]) {{\n"
                      "  %y = pointwise %a, %b, @w, %c {{expr = \"{e}\", out = {o}}} : "
                      "{o}[T, {n}]\n  return %y\n}}\n",
                      fmt::arg("t", t), fmt::arg("x", x), fmt::arg("n", n), fmt::arg("o", o),
                      fmt::arg("p", kTypes[(index + 1) % 3]), fmt::arg("e", exprs[index % 5])),
          runs_of({1, 3, 130}), is_f32(t));
      ++index;
    }
  }
  index = 0;
  for (const char* expr :
       {"silu(gate) * up", "gelu_tanh(gate) * up",
        "min(gate, 7) * sigmoid(1.702 * min(gate, 7)) * (clamp(up, -7, 7) + 1)"}) {
    for (const std::string& t : kTypes) {
      const int64_t n = std::array{1, 7, 8, 50, 1024}[static_cast<size_t>(index) % 5];
      add(cases, fmt::format("glu_{}_{}_{}", index, t, n),
          fmt::format("graph @step(%a : {t}[T, {m}]) {{\n"
                      "  %y = glu %a {{expr = \"{e}\"}} : {t}[T, {n}]\n  return %y\n}}\n",
                      fmt::arg("t", t), fmt::arg("n", n), fmt::arg("m", 2 * n),
                      fmt::arg("e", expr)),
          runs_of({1, 5, 67}), is_f32(t));
      ++index;
    }
  }
}

// ---- norms ----

void add_norms(Cases& cases) {
  int index = 0;
  for (const int64_t n : {1, 5, 8, 20, 64, 127, 512, 1000, 2048, 5120}) {
    const std::string types[] = {"f32", kTypes[1 + index % 2]};
    for (const std::string& t : types) {
      add(cases, fmt::format("norm_{}_{}", t, n),
          fmt::format(
              "param @w : {w}[{n}]\nparam @b : {t}[{n}]\n"
              "graph @step(%x : {t}[T, {n}], %y : {t}[T, {n}], %h : {t}[T, 3, {n}]) {{\n"
              "  %rms = rms_norm %x, @w {{eps = 1e-06}} : {t}[T, {n}]\n"
              "  %heads = rms_norm %h, @w {{plus_one = true}} : {t}[T, 3, {n}]\n"
              "  %layer = layer_norm %x, @w, @b : {t}[T, {n}]\n"
              "  %bare = layer_norm %h, @w, none {{eps = 0.001, plus_one = true}} : {t}[T, 3, "
              "{n}]\n"
              "  %s1, %n1 = add_norm %x, %y, @w, none {{eps = 1e-06}} : {t}[T, {n}], {t}[T, {n}]\n"
              "  %s2, %n2 = add_norm %x, %y, @w, @b {{kind = layer}} : {t}[T, {n}], {t}[T, {n}]\n"
              "  return %rms, %heads, %layer, %bare, %s1, %n1, %s2, %n2\n}}\n",
              fmt::arg("t", t), fmt::arg("n", n), fmt::arg("w", kTypes[(index + 1) % 3])),
          runs_of({1, 2, 33}), is_f32(t));
      ++index;
    }
  }
}

// ---- rope ----

void add_rope(Cases& cases) {
  int index = 0;
  for (const auto& [d, rotary] :
       {std::pair{2, 2}, std::pair{8, 4}, std::pair{16, 16}, std::pair{20, 10}, std::pair{64, 64},
        std::pair{80, 32}, std::pair{128, 128}, std::pair{256, 64}}) {
    for (const std::string& t : {kTypes[0], kTypes[1 + index % 2]}) {
      for (const bool interleaved : {false, true}) {
        if (interleaved && index % 3 == 0) continue;
        cases.push_back(
            {case_name(fmt::format("rope_{}_{}_{}_{}", t, d, rotary, interleaved ? "i" : "h")),
             module_text(
                 fmt::format(
                     "param @inv_freq : f32[{r}]\n"
                     "graph @step(%x : {t}[T, {h}, {d}], %positions : i32[T]) {{\n"
                     "  %y = rope %x, %positions, @inv_freq {{interleaved = {i}, scale = {s}}} : "
                     "{t}[T, {h}, {d}]\n  return %y\n}}\n",
                     fmt::arg("t", t), fmt::arg("d", d), fmt::arg("h", 1 + index % 5),
                     fmt::arg("r", rotary / 2), fmt::arg("i", interleaved),
                     fmt::arg("s", index % 2 == 0 ? "1" : "1.25")),
                 80),
             runs_of({1, 3, 70}), is_f32(t), [](const std::string& name, int run, ir::Tensor& x) {
               if (name != "positions" || run != 2) return;
               for (size_t i = 0; i < x.i.size(); ++i) x.i[i] = static_cast<int32_t>(i * 1777);
             }});
      }
      ++index;
    }
  }
}

// ---- dummy ----

void add_dummy(Cases& cases) {
  for (const std::string& t : kTypes) {
    add(cases, "dummy_" + t,
        fmt::format("param @w : {t}[7, 13]\nparam @v : {t}[64]\ngraph @load() {{\n"
                    "  %a = dummy {{seed = 5, dtype = {t}, shape = [7, 13]}} : {t}[7, 13]\n"
                    "  store %a, @w\n"
                    "  %b = dummy {{seed = 6, mean = 1, stddev = 0.1, dtype = {t}, shape = [64]}} "
                    ": {t}[64]\n"
                    "  store %b, @v\n}}\n"
                    "graph @step(%tokens : i32[T], %x : f32[T, 64]) {{\n"
                    "  %y = embedding %tokens, @w {{out = f32}} : f32[T, 13]\n"
                    "  %z = pointwise %x, @v {{expr = \"x0 * x1\", out = f32}} : f32[T, 64]\n"
                    "  return %y, %z\n}}\n",
                    fmt::arg("t", t)),
        runs_of({1, 29}), true);
    // Rounding to the type may go the other way for a number computed a little differently.
    cases.back().slack = is_f32(t) ? 1 : t == "f16" ? 100 : 800;
  }
}

/// A parameter from a literal table, joined and cut on the way.
void add_constant(Cases& cases) {
  add(cases, "constant",
      "param @w : f32[3]\ngraph @load() {\n"
      "  %a = constant {values = [1.5, -2.25, 1e-07]} : f32[3]\n  store %a, @w\n}\n"
      "graph @step(%x : f32[T, 3]) {\n"
      "  %y = pointwise %x, @w {expr = \"x0 + x1\", out = f32} : f32[T, 3]\n  return %y\n}\n",
      runs_of({1, 4}), true);
}

// ---- sample ----

void set_sampling(const std::string& name, ir::Tensor& x) {
  constexpr float temperatures[] = {0, 0.7f, 1, 1.3f};
  constexpr float top_ps[] = {1, 0.9f, 0.31f, 0, 0.999f};
  constexpr float uniforms[] = {0, 0.123457f, 0.5003f, 0.871f, 0.99999f, 0.7f, 0.31f};
  constexpr int32_t top_ks[] = {0, 1, 3, 50, 1 << 30, 0};
  for (size_t r = 0; r < x.f.size(); ++r) {
    if (name == "temperature") x.f[r] = temperatures[r % 4];
    if (name == "top_p") x.f[r] = top_ps[r % 5];
    if (name == "uniform") x.f[r] = uniforms[r % 7];
  }
  if (name == "top_k") {
    for (size_t r = 0; r < x.i.size(); ++r) x.i[r] = top_ks[r % 6];
  }
}

void add_sample(Cases& cases) {
  for (const int64_t v : {1, 2, 33, 1000, 32003, 151936}) {
    for (const bool tied : {false, true}) {
      if (tied && v > 2000) continue;
      cases.push_back(
          {fmt::format("sample_{}{}", v, tied ? "_tied" : ""),
           module_text(
               fmt::format(
                   "graph @sample(%logits : f32[R, {v}], %temperature : f32[R], %top_k : i32[R], "
                   "%top_p : f32[R], %uniform : f32[R]) dims(R in [1, 64]) {{\n"
                   "  %ids = sample %logits, %temperature, %top_k, %top_p, %uniform : i32[R]\n"
                   "  return %ids\n}}\n",
                   fmt::arg("v", v)),
               1),
           {{{1}, false, 1, true}, {{1}, false, v > 2000 ? 13 : 64, true}},
           true,
           [tied](const std::string& name, int, ir::Tensor& x) {
             set_sampling(name, x);
             if (name != "logits") return;
             for (float& l : x.f) l = tied ? std::round(4 * l) / 4 : 4 * l;
           }});
    }
  }
}

}  // namespace

std::vector<OpCase> tensor_cases() {
  Cases cases;
  add_rows(cases);
  add_parts(cases);
  add_shapes(cases);
  add_pointwise(cases);
  add_norms(cases);
  add_rope(cases);
  add_dummy(cases);
  add_constant(cases);
  add_sample(cases);
  return cases;
}

}  // namespace shunt::test
