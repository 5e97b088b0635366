// Times the experts of a decode step on one GPU (or the cpu target): a gated product up, a product
// down and the sum over a token's choices, layer after layer, in every way that the kernel table
// has for it. With
// --ranks it stands for one rank of several: of the experts it has its part, and most routes are
// another's.
//
//   expert_bench --tokens 8 --experts 128 --choices 8 --hidden 2048 --width 768 --ranks 4
//
// Prints, for each way, microseconds a layer in a captured step, those of the two products timed
// alone, and the rate at which the step reads the weights that it needs (each expert once).
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>
#include <set>

#include "bench/scratch_plan.h"
#include "ir/error.h"
#include "ir/expert_load.h"
#include "runtime/device.h"
#include "runtime/session.h"
#include "tools/driver.h"

namespace shunt {
namespace {

struct Shape {
  int64_t tokens = 8, experts = 128, choices = 8, hidden = 2048, width = 768, ranks = 1, layers = 8;
  int64_t bound = 0;  // of the tokens, that kernels are chosen for; 0: `tokens`
  std::string dtype = "bf16", target;
  int draws = 10, repetitions = 20;

  int64_t local() const { return experts / ranks; }
  int64_t most() const { return std::max(bound, tokens); }
};

/// One way to compute: routes sorted or not, and the row of the kernel table for the products.
struct Way {
  bool sorted;
  std::string row;
};

// ---- the module ----

std::string list(int64_t n, const std::function<std::string(int64_t)>& item,
                 const char* separator = ", ") {
  std::string text;
  for (int64_t i = 0; i < n; ++i) text += (i == 0 ? "" : separator) + item(i);
  return text;
}

/// Weights of every layer, the map of experts to ranks, and how @load fills them.
std::string params_text(const Shape& s) {
  std::string params = fmt::format("param @table : f32[{}]\n", 3 * s.experts), load;
  load += fmt::format(
      "  %t = constant {{values = [{}]}} : f32[{}]\n  store %t, @table\n",
      list(s.experts,
           [&](int64_t e) { return fmt::format("{}, {}, 1", e / s.local(), e % s.local()); }),
      3 * s.experts);
  for (int64_t i = 0; i < s.layers; ++i) {
    for (const bool down : {false, true}) {
      const std::string name = fmt::format("{}.{}", down ? "down" : "up", i);
      const std::string shape = down
                                    ? fmt::format("[{}, {}, {}]", s.local(), s.hidden, s.width)
                                    : fmt::format("[{}, {}, {}]", s.local(), 2 * s.width, s.hidden);
      params += fmt::format("param @{} : {}{}\n", name, s.dtype, shape);
      load += fmt::format(
          "  %{0} = dummy {{seed = {3}, stddev = 0.02, dtype = {1}, shape = {2}}} : {1}{2}\n"
          "  store %{0}, @{0}\n",
          name, s.dtype, shape, 2 * i + (down ? 1 : 0));
    }
  }
  return params + "graph @load() {\n" + load + "}\n";
}

std::string layer_text(const Shape& s, int64_t i, bool sorted) {
  const std::string routes = s.choices == 1 ? "T" : fmt::format("{}*T", s.choices);
  const auto named = [&](const char* text) {
    return fmt::format(
        fmt::runtime(text), fmt::arg("i", i), fmt::arg("e", s.experts), fmt::arg("k", s.choices),
        fmt::arg("x", i == 0 ? "x" : fmt::format("y.{}", i - 1)), fmt::arg("d", s.dtype),
        fmt::arg("l", s.local()), fmt::arg("l1", s.local() + 1), fmt::arg("h", s.hidden),
        fmt::arg("n", s.width), fmt::arg("r", routes),
        fmt::arg("ids", s.ranks > 1 ? "own" : "ids"));
  };
  const char* map = "  %own.{i} = local_routes %ids.{i}, @table {{experts = {e}}} : i32[T, {k}]\n";
  const char* unsorted =
      "  %h.{i} = routed_linear %{x}, @up.{i}, %{ids}.{i} {{epilogue = \"silu(gate) * up\", "
      "glu = true, out = {d}}} : {d}[{r}, {n}]\n"
      "  %o.{i} = routed_linear %h.{i}, @down.{i}, %{ids}.{i} {{out = {d}}} : {d}[{r}, {h}]\n";
  const char* with_sort =
      "  %off.{i}, %rows.{i} = route_sort %{ids}.{i} {{experts = {l}}} : i32[{l1}], i32[{r}]\n"
      "  %h.{i} = grouped_linear %{x}, @up.{i}, %off.{i}, %rows.{i} {{epilogue = \"silu(gate) * "
      "up\", glu = true, out = {d}, gather = {k}}} : {d}[{r}, {n}]\n"
      "  %o.{i} = grouped_linear %h.{i}, @down.{i}, %off.{i}, %rows.{i} {{out = {d}, scatter = "
      "true}} : {d}[{r}, {h}]\n";
  const char* sum = "  %y.{i} = combine_routes %o.{i}, %w, %{ids}.{i}, %{x} : {d}[T, {h}]\n";
  return (s.ranks > 1 ? named(map) : "") + named(sorted ? with_sort : unsorted) + named(sum);
}

std::string module_text(const Shape& s, bool sorted) {
  const std::string ids = list(
      s.layers, [&](int64_t i) { return fmt::format(", %ids.{} : i32[T, {}]", i, s.choices); }, "");
  return fmt::format(
      "module @experts stage(logical)\npage_size 64\ndim T in [1, {b}]\ndim S in [1, {b}]\n"
      "dim R in [1, {b}]\n{params}graph @step.decode.{b}(%x : {d}[T, {h}], %w : f32[T, {k}]{ids}) "
      "dims(T in [1, {b}], S in [1, {b}]) {{\n{layers}  return %y.{last}\n}}\n",
      fmt::arg("b", s.most()), fmt::arg("params", params_text(s)), fmt::arg("d", s.dtype),
      fmt::arg("h", s.hidden), fmt::arg("k", s.choices), fmt::arg("ids", ids),
      fmt::arg("layers", list(
                             s.layers, [&](int64_t i) { return layer_text(s, i, sorted); }, "")),
      fmt::arg("last", s.layers - 1));
}

// ---- the plan ----

Plan compile(const Shape& s, const ir::Module& module, const Way& way, const ScratchPlan& scratch) {
  const Limits limits{64, s.most(), s.most(), s.most(), 64};
  Plan plan = scratch.compile(module, {find_target(s.target), limits, {}, way.row});
  plan.activation_dtype = s.dtype;
  return plan;
}

/// Every row that computes the products of the module.
std::vector<Way> ways_of(const Shape& s, const ir::Module& module, bool sorted) {
  const ir::Graph& step = *module.find_graph(fmt::format("step.decode.{}", s.most()));
  codegen::Context context{find_target(s.target), module, step, {}, true, module.page_size, 64};
  for (const auto* dims : {&module.dims, &step.dims}) {
    for (const DimDecl& d : *dims) context.upper[d.name] = d.max;
  }
  std::vector<Way> ways;
  const auto product = std::find_if(step.ops.begin(), step.ops.end(), [&](const auto& op) {
    return op->kind == (sorted ? ir::OpKind::grouped_linear : ir::OpKind::routed_linear);
  });
  for (const codegen::KernelImpl& row : codegen::all_kernels()) {
    if (row.op == (*product)->kind && row.supports(**product, context))
      ways.push_back({sorted, std::string(row.name)});
  }
  return ways;
}

// ---- running ----

/// Fills the ids of every layer with `choices` distinct experts a token; returns how many local
/// experts they are in all, over the layers.
int64_t draw(const Shape& s, Session& session, std::mt19937& random) {
  int64_t distinct = 0;
  std::vector<int32_t> all(static_cast<size_t>(s.experts));
  std::iota(all.begin(), all.end(), 0);
  for (int64_t i = 0; i < s.layers; ++i) {
    auto ids = session.input_as<int32_t>(fmt::format("ids.{}", i));
    std::set<int32_t> local;
    for (int64_t t = 0; t < s.tokens; ++t) {
      for (int64_t j = 0; j < s.choices; ++j) {  // the first steps of a shuffle
        const auto rest = static_cast<uint32_t>(s.experts - j);
        std::swap(all[static_cast<size_t>(j)], all[static_cast<size_t>(j) + random() % rest]);
        const int32_t id = all[static_cast<size_t>(j)];
        ids[static_cast<size_t>(t * s.choices + j)] = id;
        if (id < s.local()) local.insert(id);
      }
    }
    distinct += static_cast<int64_t>(local.size());
  }
  return distinct;
}

void fill_activations(const Shape& s, Session& session, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const auto elements = static_cast<size_t>(s.tokens * s.hidden);
  if (s.dtype == "f32") {
    auto x = session.input_as<float>("x");
    for (size_t i = 0; i < elements; ++i) x[i] = normal(random);
  } else {
    auto x = session.input_as<uint16_t>("x");
    for (size_t i = 0; i < elements; ++i) {
      const float value = normal(random);
      x[i] = s.dtype == "bf16" ? bf16_from_f32(value) : f16_from_f32(value);
    }
  }
  auto w = session.input_as<float>("w");
  std::fill(w.begin(), w.end(), 1.0f / static_cast<float>(s.choices));
}

struct Times {
  double layer = 0;         // seconds, in a captured step; the median over the draws
  double up = 0, down = 0;  // seconds of the products, timed alone
  double distinct = 0;      // local experts a layer
};

/// Adds the products' times of one step, run kernel by kernel.
void add_alone(const std::vector<StepTime>& steps, const Shape& s, Times& times) {
  bool down = false;
  for (const StepTime& step : steps) {
    if (!step.name.starts_with("routed_linear") && !step.name.starts_with("grouped_linear"))
      continue;
    (down ? times.down : times.up) += step.seconds / static_cast<double>(s.layers * s.draws);
    down = !down;
  }
}

Times time_way(const Shape& s, const ir::Module& module, const Way& way,
               const ScratchPlan& scratch) {
  const Plan plan = compile(s, module, way, scratch);
  Session session(plan, scratch.path(), {});
  std::mt19937 random(1);  // the same routes for every way
  fill_activations(s, session, random);
  Times times;
  std::vector<double> seconds;
  for (int i = 0; i < s.draws; ++i) {
    times.distinct +=
        static_cast<double>(draw(s, session, random)) / static_cast<double>(s.layers * s.draws);
    seconds_a_step(session, s.tokens, 3);  // warm up
    seconds.push_back(seconds_a_step(session, s.tokens, s.repetitions) /
                      static_cast<double>(s.layers));
    add_alone(session.run_step_timed(true, s.tokens, s.tokens, s.tokens), s, times);
  }
  times.layer = median(std::move(seconds));
  return times;
}

void print_way(const Shape& s, const Way& way, const Times& t) {
  const double expert = 3.0 * static_cast<double>(s.hidden * s.width) * (s.dtype == "f32" ? 4 : 2);
  fmt::print("| {:<28} | {:8.1f} | {:8.1f} | {:8.1f} | {:6.1f} | {:6.0f} | {:4.0f} % |\n",
             (way.sorted ? "sorted, " : "") + way.row, t.layer * 1e6, t.up * 1e6, t.down * 1e6,
             t.distinct, t.distinct * expert / t.layer / 1e9,
             t.distinct * expert / t.layer / find_target(s.target).memory_bytes_per_s * 100);
  std::fflush(stdout);
}

void bench(const Shape& s, const std::string& only, bool compile_only) {
  const ScratchPlan scratch;
  fmt::print(
      "tokens {} (kernels for {}), {} of {} experts, choices {}, hidden {}, width {}, {}\n\n",
      s.tokens, s.most(), s.local(), s.experts, s.choices, s.hidden, s.width, s.dtype);
  fmt::print(
      "| row | us a layer | up alone | down alone | experts | GB/s | of roofline |\n"
      "| --- | --- | --- | --- | --- | --- | --- |\n");
  for (const bool sorted : {false, true}) {
    const auto module = ir::parse(module_text(s, sorted));
    ir::verify(*module);
    for (const Way& way : ways_of(s, *module, sorted)) {
      if (way.row.find(only) == std::string::npos || way.row.ends_with(".simt")) continue;
      if (compile_only) {
        compile(s, *module, way, scratch);
        fmt::print("{} compiles\n", way.row);
      } else {
        print_way(s, way, time_way(s, *module, way, scratch));
      }
    }
  }
}

}  // namespace
}  // namespace shunt

int main(int argc, char** argv) {
  using namespace shunt;
  Shape s;
  std::string only;
  bool compile_only = false;
  CLI::App app{"Times the experts of a decode step in every way the kernel table has."};
  app.add_option("--tokens", s.tokens, "of the step")->check(CLI::Range(1, 1024));
  app.add_option("--bound", s.bound, "tokens that kernels are chosen for, if more");
  app.add_option("--experts", s.experts, "of the model")->check(CLI::Range(1, 4096));
  app.add_option("--choices", s.choices, "of a token")->check(CLI::Range(1, 64));
  app.add_option("--hidden", s.hidden)->check(CLI::Range(1, 1 << 20));
  app.add_option("--width", s.width, "of an expert")->check(CLI::Range(1, 1 << 20));
  app.add_option("--ranks", s.ranks, "that share the experts; this is one of them")
      ->check(CLI::Range(1, 1024));
  app.add_option("--layers", s.layers)->check(CLI::Range(1, 64));
  app.add_option("--dtype", s.dtype)->check(CLI::IsMember({"bf16", "f16", "f32"}));
  app.add_option("--target", s.target, "default: the GPU's");
  app.add_option("--draws", s.draws, "of random routes")->check(CLI::Range(1, 1000));
  app.add_option("--only", only, "rows whose name contains this");
  app.add_flag("--compile-only", compile_only, "no GPU needed");
  CLI11_PARSE(app, argc, argv);
  try {
    if (s.target.empty()) s.target = default_target();
    if (s.experts % s.ranks != 0 || s.choices > s.experts)
      user_error("experts must be a multiple of ranks, and at least as many as choices");
    bench(s, only, compile_only);
  } catch (const std::exception& e) {
    fmt::print(stderr, "expert_bench: {}\n", e.what());
    return 1;
  }
  return 0;
}
