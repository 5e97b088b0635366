// Cases of routing and of the experts' products: any number of experts, dropped routes, all routes
// to one expert, forced routing. Entry point moe_cases(). Run by op_cpu_test.cpp and
// op_gpu_test.cpp.
#include <algorithm>
#include <span>

#include "tests/kernels/op_cases.h"
#include "tests/kernels/op_cases_text.h"

namespace shunt::test {

namespace {

using Cases = std::vector<OpCase>;

/// Routes by run: 0 as generated, 1 all tokens to the same experts, 2 all dropped, 3 every other
/// token dropped, 4 only the last experts, 5 most dropped, 6 all to two experts, which a token then
/// has several times (forced routing may).
void set_routes(int64_t experts, int run, ir::Tensor& ids) {
  const int64_t k = ids.last();
  for (size_t r = 0; r < ids.i.size(); ++r) {
    const auto token = static_cast<int64_t>(r) / k, choice = static_cast<int64_t>(r) % k;
    if (run == 1) ids.i[r] = static_cast<int32_t>((experts / 2 + choice) % experts);
    if (run == 2 || (run == 3 && token % 2 == 1)) ids.i[r] = -1;
    if (run == 4) ids.i[r] = static_cast<int32_t>(experts - 1 - choice);
    if (run == 5 && r % 7 != 3) ids.i[r] = -1;
    if (run == 6) ids.i[r] = static_cast<int32_t>(r * r % 3 % 2) % static_cast<int32_t>(experts);
  }
}

// ---- topk_gate, norm_gate ----

struct Gate {
  int64_t experts, k;
  const char* attrs;  // beside k
  bool bias, forced;
};

constexpr Gate kGates[] = {
    {1, 1, "", false, false},
    {2, 2, "norm = sum", false, true},
    {7, 3, "score = sigmoid, norm = sum, norm_eps = 1e-20, scale = 2.5", true, false},
    {8, 2, "score = identity, norm = softmax", false, true},
    {16, 4, "score = sqrt_softplus, norm = sum, scale = 1.5", true, true},
    {32, 4, "score = identity, norm = softmax", false, false},
    {60, 4, "", false, true},
    {64, 8, "score = sigmoid, norm = sum, groups = 8, keep_groups = 4, group_score = top2_sum",
     true, true},
    {64, 6, "groups = 8, keep_groups = 3, scale = 16", false, false},
    {128, 8, "norm = sum", false, false},
    {256, 8,
     "score = sigmoid, norm = sum, norm_eps = 1e-20, scale = 2.5, groups = 8, keep_groups = 4, "
     "group_score = top2_sum",
     true, false},
    {257, 1, "score = sigmoid", true, false},
    {512, 10, "norm = sum", false, true},
    {1024, 32, "", false, false},
};

/// Gates whose routes depend on the whole batch: topk_gate only.
constexpr Gate kCapacityGates[] = {
    {4, 1, "drop = order, capacity_factor = 1, min_capacity = 4", false, false},
    {8, 2,
     "norm = sum, norm_min = 1.1920928955078125e-07, drop = order, capacity_factor = 0.75, "
     "min_capacity = 2",
     false, true},
    {7, 3, "scale = 2.5, drop = order, capacity_factor = 0.5", false, false},
    {5, 2, "norm = sum, norm_eps = 1e-20, drop = score, capacity_factor = 0.6", true, false},
    {64, 4, "norm = sum, norm_min = 1e-12, drop = score, capacity_factor = 0.4", false, true},
    {16, 1, "drop = random, capacity_factor = 0.5, seed = 12345678901", false, false},
    {9, 4, "drop = random, capacity_factor = 0.8, min_capacity = 1, seed = -7", false, true},
    {8, 2, "norm = sum, norm_min = 1e-12, sample_second = true, seed = 3", false, false},
    {33, 2, "scale = 0.5, drop = random, capacity_factor = 0.5, sample_second = true", false, true},
    {3, 2, "drop = score", false, false},  // no slot at all
};

void add_topk(Cases& cases, std::span<const Gate> gates, const char* name) {
  for (const Gate& g : gates) {
    const std::string attrs = fmt::format("k = {}{}{}", g.k, *g.attrs ? ", " : "", g.attrs);
    const auto graph = [&](const char* name, const char* dims) {
      return fmt::format(
          "graph @step.{name}(%l : f32[T, {e}]{fin}) dims({dims}) {{\n"
          "  %w, %ids = topk_gate %l, {b}, {f} {{{a}}} : f32[T, {k}], i32[T, {k}]\n"
          "  return %w, %ids\n}}\n",
          fmt::arg("name", name), fmt::arg("dims", dims), fmt::arg("e", g.experts),
          fmt::arg("fin", g.forced ? fmt::format(", %forced.0 : i32[T, {}]", g.k) : ""),
          fmt::arg("b", g.bias ? "@bias" : "none"), fmt::arg("f", g.forced ? "%forced.0" : "none"),
          fmt::arg("a", attrs), fmt::arg("k", g.k));
    };
    OpCase c;
    c.name = fmt::format("{}_{}_{}{}", name, g.experts, g.k, g.forced ? "_forced" : "");
    c.module = module_text((g.bias ? fmt::format("param @bias : f32[{}]\n", g.experts) : "") +
                               graph("decode.8", "T in [1, 8], S in [1, 8]") +
                               graph("any", "T in [1, 300]"),
                           300);
    c.runs = {decode_run(5), {{1}}, {{33}}, {{260}}};
    c.cpu = true;
    cases.push_back(std::move(c));
  }
}

void add_norm_gate(Cases& cases) {
  struct Types {
    const char *x, *y, *norm, *router;
  };
  constexpr Types types[] = {{"f32", "f32", "bf16", "f32"},
                             {"bf16", "bf16", "bf16", "bf16"},
                             {"f16", "f32", "f32", "f16"},
                             {"f32", "f32", "f16", "bf16"},
                             {"bf16", "f32", "f16", "f32"}};
  constexpr int64_t widths[] = {8, 20, 64, 129, 1000, 2048};
  int index = 0;
  for (const Gate& g : kGates) {
    for (int repeat = 0; repeat < 2; ++repeat, ++index) {
      const Types& t = types[index % 5];
      const int64_t h = widths[index % 6];
      const bool has_y = index % 3 != 2, router_bias = index % 4 == 1;
      std::string inputs = fmt::format("%x : {}[T, {}]", t.x, h);
      if (has_y) inputs += fmt::format(", %y : {}[T, {}]", t.y, h);
      if (g.forced) inputs += fmt::format(", %forced.0 : i32[T, {}]", g.k);
      std::string params =
          fmt::format("param @norm : {}[{h}]\nparam @router : {}[{e}, {h}]\n", t.norm, t.router,
                      fmt::arg("h", h), fmt::arg("e", g.experts));
      if (g.bias) params += fmt::format("param @bias : f32[{}]\n", g.experts);
      if (router_bias) params += fmt::format("param @router_bias : bf16[{}]\n", g.experts);
      const auto graph = [&](const char* name, const char* dims) {
        return fmt::format(
            "graph @step.{name}({inputs}) dims({dims}) {{\n"
            "  %sum, %normed, %logits, %w, %ids = norm_gate %x, {y}, @norm, @router, {rb}, {b}, "
            "{f} {{k = {k}{comma}{a}, eps = 1e-06, plus_one = {p}}} : {t}[T, {h}], {t}[T, {h}], "
            "f32[T, {e}], f32[T, {k}], i32[T, {k}]\n"
            "  return %sum, %normed, %logits, %w, %ids\n}}\n",
            fmt::arg("name", name), fmt::arg("inputs", inputs), fmt::arg("dims", dims),
            fmt::arg("y", has_y ? "%y" : "none"),
            fmt::arg("rb", router_bias ? "@router_bias" : "none"),
            fmt::arg("b", g.bias ? "@bias" : "none"),
            fmt::arg("f", g.forced ? "%forced.0" : "none"), fmt::arg("k", g.k),
            fmt::arg("comma", *g.attrs ? ", " : ""), fmt::arg("a", g.attrs),
            fmt::arg("p", index % 2 == 1), fmt::arg("t", t.x), fmt::arg("h", h),
            fmt::arg("e", g.experts));
      };
      OpCase c;
      c.name = fmt::format("norm_gate_{}_{}_{}_h{}", t.x, g.experts, g.k, h);
      c.module = module_text(
          params + graph("decode.8", "T in [1, 8], S in [1, 8]") + graph("any", "T in [1, 300]"),
          300);
      c.runs = {decode_run(5), {{1}}, {{33}}, {{h > 500 ? 67 : 260}}};
      c.cpu = std::string(t.x) == "f32";
      // Weights follow the logits, whose error has the size of the terms of a long sum.
      c.slack = 2;
      cases.push_back(std::move(c));
    }
  }
}

// ---- routed_linear, route_sort, grouped_linear, combine_routes ----

struct Experts {
  int64_t experts, k, in, out;  // `out` columns after the GLU
};

constexpr Experts kExperts[] = {{1, 1, 8, 4},     {2, 2, 13, 6},   {8, 2, 64, 48},
                                {60, 4, 20, 24},  {64, 8, 72, 32}, {7, 3, 129, 66},
                                {128, 8, 40, 16}, {257, 8, 16, 10}};

struct ExpertTypes {
  const char *x, *w;
};
constexpr ExpertTypes kExpertTypes[] = {{"f32", "f32"},  {"bf16", "bf16"}, {"f32", "bf16"},
                                        {"f16", "f16"},  {"bf16", "f32"},  {"f32", "f16"},
                                        {"f16", "bf16"}, {"bf16", "bf16"}};

std::string expert_params(const Experts& s, const ExpertTypes& t) {
  return fmt::format(
      "param @up : {w}[{e}, {n2}, {k}]\nparam @up_bias : {w}[{e}, {n}]\n"
      "param @one : {w}[{e}, {n2}, {k}]\nparam @down : {w}[{e}, {k}, {n}]\n",
      fmt::arg("w", t.w), fmt::arg("e", s.experts), fmt::arg("n", s.out), fmt::arg("n2", 2 * s.out),
      fmt::arg("k", s.in));
}

OpCase routed_case(const Experts& s, const ExpertTypes& t) {
  const auto graph = [&](const char* name, const char* dims) {
    return fmt::format(
        "graph @step.{name}(%x : {t}[T, {i}], %ids : i32[T, {k}], %w : f32[T, {k}], "
        "%r : {t}[T, {i}], %y : {t}[{k}*T, {i}]) dims({dims}) {{\n"
        "  %a = routed_linear %x, @up, %ids, @up_bias {{epilogue = \"silu(gate) * up + x0\", "
        "glu = true, out = {t}}} : {t}[{k}*T, {n}]\n"
        "  %b = routed_linear %y, @one, %ids {{out = f32}} : f32[{k}*T, {n2}]\n"
        "  %c = combine_routes %y, %w, %ids, %r : {t}[T, {i}]\n"
        "  %d = combine_routes %y, %w, %ids : {t}[T, {i}]\n"
        "  return %a, %b, %c, %d\n}}\n",
        fmt::arg("name", name), fmt::arg("dims", dims), fmt::arg("t", t.x), fmt::arg("i", s.in),
        fmt::arg("k", s.k), fmt::arg("n", s.out), fmt::arg("n2", 2 * s.out));
  };
  OpCase c;
  c.name = case_name(fmt::format("routed_{}_{}_e{}_k{}_{}", t.x, t.w, s.experts, s.k, s.in));
  c.module = module_text(expert_params(s, t) + graph("decode.8", "T in [1, 8], S in [1, 8]") +
                             graph("any", "T in [1, 100]"),
                         100);
  c.runs = {{{9}}, {{5}}, {{2}}, {{17}}, {{6}}, {{1}}, decode_run(5), decode_run(1), {{67}}};
  c.cpu = std::string(t.x) == "f32";
  const int64_t experts = s.experts;
  c.adjust = [experts](const std::string& name, int run, ir::Tensor& x) {
    if (name == "ids") set_routes(experts, run, x);
  };
  return c;
}

OpCase grouped_case(const Experts& s, const ExpertTypes& t) {
  OpCase c;
  c.name = case_name(fmt::format("grouped_{}_{}_e{}_k{}_{}", t.x, t.w, s.experts, s.k, s.in));
  const auto graph = [&](const char* name, const char* dims) {
    return fmt::format(
        "graph @step.{name}(%x : {t}[T, {i}], %ids : i32[T, {k}], %y : {t}[{k}*T, {n}]) "
        "dims({dims}) {{\n"
        "  %offsets, %rows = route_sort %ids {{experts = {e}}} : i32[{e1}], i32[{k}*T]\n"
        "  %a = grouped_linear %x, @up, %offsets, %rows, @up_bias {{epilogue = "
        "\"silu(gate) * up + x0\", glu = true, out = {t}, gather = {k}}} : {t}[{k}*T, {n}]\n"
        "  %b = grouped_linear %y, @down, %offsets, %rows {{out = {t}, scatter = true}} : "
        "{t}[{k}*T, {i}]\n"
        "  %c = grouped_linear %x, @one, %offsets, %rows {{out = f32, gather = {k}, "
        "scatter = true}} : f32[{k}*T, {n2}]\n"
        "  return %offsets, %rows, %a, %b, %c\n}}\n",
        fmt::arg("name", name), fmt::arg("dims", dims), fmt::arg("t", t.x), fmt::arg("i", s.in),
        fmt::arg("k", s.k), fmt::arg("n", s.out), fmt::arg("n2", 2 * s.out),
        fmt::arg("e", s.experts), fmt::arg("e1", s.experts + 1));
  };
  c.module = module_text(
      expert_params(s, t) + graph("small", "T in [1, 20]") + graph("large", "T in [21, 320]"), 320);
  c.runs = {{{9}}, {{5}}, {{2}}, {{17}}, {{6}}, {{1}}, {{67}}, {{300}}};
  c.cpu = std::string(t.x) == "f32";
  const int64_t experts = s.experts;
  c.adjust = [experts](const std::string& name, int run, ir::Tensor& x) {
    if (name == "ids") set_routes(experts, run, x);
  };
  return c;
}

void add_experts(Cases& cases) {
  size_t index = 0;
  for (const Experts& s : kExperts) {
    for (int repeat = 0; repeat < 2; ++repeat) {
      const ExpertTypes& t = kExpertTypes[(index + index / 8) % std::size(kExpertTypes)];
      cases.push_back(routed_case(s, t));
      cases.push_back(grouped_case(s, t));
      ++index;
    }
  }
}

/// The experts of one of `ranks` ranks, most of whose routes are another's: expert e is in slot e /
/// ranks of rank e % ranks.
OpCase part_case(const Experts& s, int64_t ranks, const ExpertTypes& t) {
  Experts mine = s;
  mine.experts = s.experts / ranks;
  const auto graph = [&](const char* name, const char* dims) {
    return fmt::format(
        "graph @step.{name}(%x : {t}[T, {i}], %ids : i32[T, {k}], %w : f32[T, {k}]) dims({dims}) "
        "{{\n"
        "  %own = local_routes %ids, @table {{experts = {e}}} : i32[T, {k}]\n"
        "  %a = routed_linear %x, @up, %own, @up_bias {{epilogue = \"silu(gate) * up + x0\", "
        "glu = true, out = {t}}} : {t}[{k}*T, {n}]\n"
        "  %b = routed_linear %a, @down, %own {{out = f32}} : f32[{k}*T, {i}]\n"
        "  %c = combine_routes %b, %w, %own, %x : {t}[T, {i}]\n"
        "  return %own, %a, %b, %c\n}}\n",
        fmt::arg("name", name), fmt::arg("dims", dims), fmt::arg("t", t.x), fmt::arg("i", s.in),
        fmt::arg("k", s.k), fmt::arg("n", s.out), fmt::arg("e", s.experts));
  };
  OpCase c;
  c.name = case_name(fmt::format("routed_part_{}_{}_e{}_of_{}_k{}_{}", t.x, t.w, mine.experts,
                                 s.experts, s.k, s.in));
  c.module =
      module_text(fmt::format("param @table : f32[{}]\n", 3 * s.experts) + expert_params(mine, t) +
                      graph("decode.1", "T in [1, 1], S in [1, 1]") +
                      graph("decode.8", "T in [2, 8], S in [2, 8]") + graph("any", "T in [1, 24]"),
                  24);
  c.runs = {decode_run(8), decode_run(8), decode_run(8), decode_run(7), decode_run(5),
            decode_run(8), decode_run(8), decode_run(1), {{24}},        {{3}}};
  c.cpu = std::string(t.x) == "f32";
  c.slack = 20;  // %b is made of what was rounded in %a, whose K may be long
  c.adjust = [s, ranks](const std::string& name, int run, ir::Tensor& x) {
    if (name == "ids") {
      for (size_t r = 0; r < x.i.size(); ++r)  // distinct experts in a token, all over the model
        x.i[r] = static_cast<int32_t>((r / static_cast<size_t>(s.k) * 29 + r * 5 + 1) %
                                      static_cast<size_t>(s.experts));
      set_routes(s.experts, run, x);
    }
    for (int64_t e = 0; name == "table" && e < s.experts; ++e) {
      float* row = x.f.data() + 3 * e;
      row[0] = static_cast<float>(e % ranks), row[1] = static_cast<float>(e / ranks), row[2] = 1;
    }
  };
  return c;
}

void add_parts(Cases& cases) {
  cases.push_back(part_case({128, 8, 72, 40}, 4, {"bf16", "bf16"}));
  cases.push_back(part_case({8, 2, 40, 24}, 2, {"f16", "f16"}));
  cases.push_back(part_case({16, 4, 1100, 12}, 8, {"f32", "bf16"}));
  cases.push_back(part_case({6, 3, 2048, 136}, 3, {"bf16", "bf16"}));
  cases.push_back(part_case({64, 8, 33, 7}, 2, {"f32", "f32"}));
}

/// Enough routes for the sort over several blocks.
void add_large_sort(Cases& cases) {
  for (const int64_t experts : {1, 128, 257}) {
    OpCase c;
    c.name = fmt::format("route_sort_large_{}", experts);
    const int64_t k = std::min<int64_t>(experts, 8);
    c.module = module_text(
        fmt::format("graph @step(%ids : i32[T, {k}]) {{\n"
                    "  %offsets, %rows = route_sort %ids {{experts = {e}}} : i32[{e1}], "
                    "i32[{m}]\n  return %offsets, %rows\n}}\n",
                    fmt::arg("k", k), fmt::arg("e", experts), fmt::arg("e1", experts + 1),
                    fmt::arg("m", k == 1 ? "T" : fmt::format("{}*T", k))),
        8192);
    c.runs = runs_of({1, 513, 4095, 1000, 700, 8192});
    c.cpu = true;
    c.adjust = [experts](const std::string&, int run, ir::Tensor& x) {
      set_routes(experts, run, x);
    };
    cases.push_back(std::move(c));
  }
}

/// A whole MoE block: the parts hand each other what they really produce.
void add_blocks(Cases& cases) {
  for (const std::string& t : std::vector<std::string>{"f32", "bf16", "f16"}) {
    OpCase c;
    c.name = "moe_block_" + t;
    const auto graph = [&](const char* name, const char* dims) {
      return fmt::format(
          "graph @step.{name}(%x : {t}[T, 64], %y : {t}[T, 64]) dims({dims}) {{\n"
          "  %sum, %normed, %logits, %w, %ids = norm_gate %x, %y, @norm, @router, none, none, none "
          "{{k = 4, norm = sum}} : {t}[T, 64], {t}[T, 64], f32[T, 16], f32[T, 4], i32[T, 4]\n"
          "  %h = routed_linear %normed, @up, %ids {{epilogue = \"silu(gate) * up\", glu = true, "
          "out = {t}}} : {t}[4*T, 48]\n"
          "  %d = routed_linear %h, @down, %ids {{out = {t}}} : {t}[4*T, 64]\n"
          "  %out = combine_routes %d, %w, %ids, %sum : {t}[T, 64]\n"
          "  return %out\n}}\n",
          fmt::arg("name", name), fmt::arg("dims", dims), fmt::arg("t", t));
    };
    c.module = module_text(
        fmt::format("param @norm : {t}[64]\nparam @router : {t}[16, 64]\n"
                    "param @up : {t}[16, 96, 64]\nparam @down : {t}[16, 64, 48]\n",
                    fmt::arg("t", t)) +
            graph("decode.8", "T in [1, 8], S in [1, 8]") + graph("any", "T in [1, 64]"),
        64);
    c.runs = {decode_run(5), decode_run(8), {{1}}, {{37}}};
    c.cpu = t == "f32";
    c.slack = 8;
    cases.push_back(std::move(c));
  }
}

}  // namespace

std::vector<OpCase> moe_cases() {
  Cases cases;
  add_topk(cases, kGates, "topk_gate");
  add_topk(cases, kCapacityGates, "capacity_gate");
  add_norm_gate(cases);
  add_experts(cases);
  add_parts(cases);
  add_large_sort(cases);
  add_blocks(cases);
  return cases;
}

}  // namespace shunt::test
