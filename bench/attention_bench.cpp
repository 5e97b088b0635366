// Times attention of decode steps on one GPU: kv_append and attention, layer after layer, each with
// a cache of its own, over batches and contexts.
//
//   attention_bench --heads 32 --kv-heads 4 --dim 128 --cases 1:2048,8:512,64:256
//
// Prints for each batch:context microseconds a layer in a captured step, of those what attention
// adds to the kernels before it, and the rate at which it reads the keys and values.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "bench/scratch_plan.h"
#include "ir/error.h"
#include "tools/driver.h"

namespace shunt {
namespace {

struct Shape {
  int64_t heads = 32, kv_heads = 4, dim = 128, page_size = 64;
  int64_t first = 0;       // context of the first sequence, if not that of the others
  int64_t bound = 0;       // of the sequences, that kernels are chosen for; 0: the batch
  int64_t max_length = 0;  // of a sequence, that kernels are chosen for; 0: the context
  std::string dtype = "bf16", target, row = "attention.decode";
  int repetitions = 20;
};

struct Case {
  int64_t batch, context;

  int64_t context_of(const Shape& s, int64_t b) const {
    return b == 0 && s.first > 0 ? s.first : context;
  }
  int64_t bytes(const Shape& s) const {
    return ((batch - 1) * context + context_of(s, 0)) * s.kv_heads * s.dim * 4;
  }
  int64_t most(const Shape& s) const { return std::max(s.bound, batch); }
  int64_t length(const Shape& s) const { return std::max({s.max_length, context, s.first}); }
  int64_t pages(const Shape& s) const { return (length(s) + s.page_size - 1) / s.page_size; }
  /// So many that a step reads more than the GPU's cache holds, up to 128, and its inputs hardly
  /// matter. Short contexts of few sequences stay in the cache all the same.
  int64_t layers(const Shape& s) const {
    return std::clamp<int64_t>(4 * find_target(s.target).l2_bytes / bytes(s) + 1, 24, 128);
  }
};

constexpr int64_t kFill = 256;   // tokens that are appended at once before anything is timed
constexpr double kWarmUp = 0.2;  // seconds

std::string module_text(const Shape& s, const Case& c, bool attend) {
  std::string states, fill, decode;
  for (int64_t i = 0; i < c.layers(s); ++i) {
    const std::string append = fmt::format(
        "  kv_append %k, %v, %positions, %seq_starts, %block_tables, @k.{0}, @v.{0}\n", i);
    states += fmt::format("state @k.{0} : {1}[{2}, {3}]\nstate @v.{0} : {1}[{2}, {3}]\n", i,
                          s.dtype, s.kv_heads, s.dim);
    fill += append;
    decode += append;
    if (!attend) continue;
    decode += fmt::format(
        "  %a.{0} = attention %q{1}, %seq_starts, %kv_lens, %block_tables, @k.{0}, @v.{0} {{scale "
        "= {2}}} : {3}[T, {4}]\n  %q.{0} = reshape %a.{0} {{shape = [T, {5}, {6}]}} : {3}[T, {5}, "
        "{6}]\n",
        i, i == 0 ? "" : fmt::format(".{}", i - 1), 1 / std::sqrt(static_cast<double>(s.dim)),
        s.dtype, s.heads * s.dim, s.heads, s.dim);
  }
  // Inputs are uploaded whole, so that only the decode step has queries.
  const std::string query = fmt::format("%q : {}[T, {}, {}], ", s.dtype, s.heads, s.dim);
  const auto graph = [&](const std::string& name, int64_t tokens, const std::string& body) {
    return fmt::format(
        "graph @step.{name}({q}%k : {d}[T, {kv}, {n}], %v : {d}[T, {kv}, {n}], %positions : "
        "i32[T], %seq_starts : i32[S+1], %kv_lens : i32[S], %block_tables : i32[S, "
        "{p}]) dims(T in [1, {t}], S in [1, {b}]) {{\n{body}}}\n",
        fmt::arg("name", name), fmt::arg("q", name == "prefill" ? "" : query),
        fmt::arg("d", s.dtype), fmt::arg("n", s.dim), fmt::arg("kv", s.kv_heads),
        fmt::arg("p", c.pages(s)), fmt::arg("t", tokens), fmt::arg("b", c.most(s)),
        fmt::arg("body", body));
  };
  const std::string last = fmt::format("  return %q.{}\n", c.layers(s) - 1);
  return fmt::format(
             "module @attention stage(logical)\npage_size {}\ndim T in [1, {}]\ndim S in [1, "
             "{}]\ndim R in [1, {}]\n{}",
             s.page_size, std::max(kFill, c.most(s)), c.most(s), c.most(s), states) +
         graph(fmt::format("decode.{}", c.most(s)), c.most(s),
               decode + (attend ? last : "  return %q\n")) +
         graph("prefill", std::max(kFill, c.most(s)), fill + "  return\n");
}

class Run {
 public:
  Run(const Shape& s, const Case& c, Session& session) : s_(s), c_(c), session_(session) {}

  /// Appends the context but its last token.
  void fill() {
    for (int64_t b = 0; b < c_.batch; ++b) {
      for (int64_t done = 0; done < c_.context_of(s_, b) - 1;) {
        const int64_t n = std::min(kFill, c_.context_of(s_, b) - 1 - done);
        set_sequence(0, b, done, n);
        session_.input_as<int32_t>("seq_starts")[0] = 0;
        session_.input_as<int32_t>("seq_starts")[1] = static_cast<int32_t>(n);
        draw("k", n * s_.kv_heads * s_.dim);
        draw("v", n * s_.kv_heads * s_.dim);
        session_.run_step(false, n, 1, 1);
        done += n;
      }
    }
  }

  /// Seconds of a step, the median over some rounds.
  double time() {
    draw("q", c_.batch * s_.heads * s_.dim);
    for (int64_t b = 0; b < c_.batch; ++b) {
      set_sequence(b, b, c_.context_of(s_, b) - 1, 1);
      session_.input_as<int32_t>("seq_starts")[b + 1] = static_cast<int32_t>(b + 1);
    }
    // The first runs step by step, the second is captured; and an idle GPU's clocks are low.
    for (double spent = 0; spent < kWarmUp;) spent += 3 * seconds_a_step(session_, c_.batch, 3);
    std::vector<double> seconds;
    for (int i = 0; i < 7; ++i)
      seconds.push_back(seconds_a_step(session_, c_.batch, s_.repetitions));
    return median(std::move(seconds));
  }

 private:
  /// Row `row` of the batch is sequence b, with n new tokens after `past`.
  void set_sequence(int64_t row, int64_t b, int64_t past, int64_t n) {
    auto positions = session_.input_as<int32_t>("positions");
    auto tables = session_.input_as<int32_t>("block_tables");
    const int64_t pages = c_.pages(s_);
    for (int64_t i = 0; i < n; ++i) positions[row + i] = static_cast<int32_t>(past + i);
    for (int64_t p = 0; p < pages; ++p) {
      // A stride apart, as pages of sequences that grow together are.
      tables[row * pages + p] = static_cast<int32_t>(p * c_.batch + b);
    }
    session_.input_as<int32_t>("kv_lens")[row] = static_cast<int32_t>(past + n);
  }

  void draw(const char* role, int64_t elements) {
    auto port = session_.input_as<uint16_t>(role);
    for (int64_t i = 0; i < elements; ++i) {
      const float value = static_cast<float>(random_() % 2048) / 1024 - 1;
      port[i] = s_.dtype == "bf16" ? bf16_from_f32(value) : f16_from_f32(value);
    }
  }

  const Shape& s_;
  const Case& c_;
  Session& session_;
  std::mt19937 random_{1};
};

/// Seconds a layer, with attention or only what comes before it.
double time_case(const Shape& s, const Case& c, bool attend, bool compile_only) {
  const ScratchPlan scratch;
  const auto module = ir::parse(module_text(s, c, attend));
  ir::verify(*module);
  const Limits limits{c.length(s), c.most(s), std::max(kFill, c.most(s)), c.most(s), s.page_size};
  Plan plan = scratch.compile(*module, {find_target(s.target), limits, {}, s.row});
  plan.activation_dtype = s.dtype;
  if (compile_only) return 0;
  SessionOptions options;
  options.kv_pages = c.pages(s) * c.batch;
  Session session(plan, scratch.path(), options);
  Run run(s, c, session);
  run.fill();
  return run.time() / static_cast<double>(c.layers(s));
}

void bench(const Shape& s, const std::vector<Case>& cases, bool compile_only) {
  fmt::print(
      "{} of {} heads, dim {}, {}\n\n| batch | context | us a layer | attention | us of bytes | "
      "GB/s |\n| --- | --- | --- | --- | --- | --- |\n",
      s.heads, s.kv_heads, s.dim, s.dtype);
  for (const Case& c : cases) {
    const double layer = time_case(s, c, true, compile_only);
    const double before = time_case(s, c, false, compile_only);
    const auto bytes = static_cast<double>(c.bytes(s));
    fmt::print("| {:5} | {:7} | {:8.2f} | {:8.2f} | {:8.2f} | {:6.0f} |\n", c.batch, c.context,
               layer * 1e6, (layer - before) * 1e6,
               bytes / find_target(s.target).memory_bytes_per_s * 1e6,
               layer > before ? bytes / (layer - before) / 1e9 : 0.0);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace shunt

int main(int argc, char** argv) {
  using namespace shunt;
  Shape s;
  std::vector<std::string> texts{"1:256", "1:2048", "8:512", "64:256"};
  bool compile_only = false;
  CLI::App app{"Times attention of decode steps over batches and contexts."};
  app.add_option("--heads", s.heads, "of queries")->check(CLI::Range(1, 1024));
  app.add_option("--kv-heads", s.kv_heads)->check(CLI::Range(1, 1024));
  app.add_option("--dim", s.dim, "of a head")->check(CLI::Range(1, 256));
  app.add_option("--cases", texts, "BATCH:CONTEXT,...")->delimiter(',');
  app.add_option("--first", s.first, "context of the first sequence, if another");
  app.add_option("--bound", s.bound, "sequences that kernels are chosen for, if more");
  app.add_option("--max-length", s.max_length, "tokens of a sequence that kernels are chosen for");
  app.add_option("--page-size", s.page_size)->check(CLI::Range(1, 4096));
  app.add_option("--dtype", s.dtype)->check(CLI::IsMember({"bf16", "f16"}));
  app.add_option("--target", s.target, "default: the GPU's");
  app.add_option("--row", s.row, "of the kernel table");
  app.add_flag("--compile-only", compile_only, "no GPU needed");
  CLI11_PARSE(app, argc, argv);
  try {
    if (s.target.empty()) s.target = default_target();
    if (s.heads % s.kv_heads != 0) user_error("heads must be a multiple of kv-heads");
    std::vector<Case> cases;
    for (const std::string& text : texts) {
      Case c{};
      if (std::sscanf(text.c_str(), "%ld:%ld", &c.batch, &c.context) != 2 || c.batch < 1 ||
          c.context < 1)
        user_error("'{}' is no BATCH:CONTEXT", text);
      cases.push_back(c);
    }
    bench(s, cases, compile_only);
  } catch (const std::exception& e) {
    fmt::print(stderr, "attention_bench: {}\n", e.what());
    return 1;
  }
  return 0;
}
