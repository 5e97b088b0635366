// Times sums over the GPUs of this machine in every way that the kernel table has for them: a chain
// of sums in a captured step, replayed.
//
//   all_reduce_bench --ranks 4 --kib 8,32,64,512
//
// Prints microseconds a sum, by size of one rank's copy, beside what ir/collectives.h expects.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <vector>

#include "bench/scratch_plan.h"
#include "ir/collectives.h"
#include "ir/error.h"
#include "runtime/device.h"
#include "runtime/ranks.h"
#include "tools/driver.h"

namespace shunt {
namespace {

constexpr int64_t kColumns = 512;  // 1 KiB a row

/// The rows that there are, and what each is expected to take.
const std::map<std::string, double (*)(double bytes, int ranks, const Target&)> kRows = {
    {"all_reduce.comm",
     [](double bytes, int ranks, const Target& t) { return comm_seconds(2, bytes, ranks, t); }},
    {"all_reduce.peer", peer_seconds},
    {"all_reduce.peer_sliced", peer_sliced_seconds}};

struct Options {
  int ranks = 0, sums = 32, repetitions = 20;
  std::vector<int64_t> kib{8, 16, 32, 64, 128, 256, 512, 1024, 4096};
  std::vector<std::string> rows;
  std::string target;
  bool compile_only = false;
};

std::string module_text(const Options& o, int64_t rows, int sums) {
  std::string chain;
  for (int i = 0; i < sums; ++i)
    chain += fmt::format(
        "  %s{} = all_reduce %s{} {{over = tp, ranks = {}}} : bf16[T, {}]\n"
        "  %s{} = pointwise %s{} {{expr = \"x0 * {}\", out = bf16}} : bf16[T, {}]\n",
        2 * i + 1, 2 * i, o.ranks, kColumns, 2 * i + 2, 2 * i + 1, 1.0 / o.ranks, kColumns);
  return fmt::format(
      "module @sums stage(placed)\nmesh dp 1 tp {0} ep 1 etp {0}\npage_size 64\n"
      "dim R in [1, {1}]\ndim S in [1, {1}]\ndim T in [1, {1}]\n"
      "graph @step.decode.{1}(%s0 : bf16[T, {2}]) dims(T in [1, {1}], S in [1, {1}]) {{\n{3}"
      "  return %s{4}\n}}\n",
      o.ranks, rows, kColumns, chain, 2 * sums);
}

bool takes(const Plan& plan, const std::string& row) {
  return std::any_of(plan.programs[0].steps.begin(), plan.programs[0].steps.end(),
                     [&](const Step& s) { return s.name == row; });
}

/// Microseconds of a step of so many sums of `rows` KiB; 0 if it was compiled only. NaN: the row
/// does not take sums of this size.
double time_step(const Options& o, const std::string& row, int64_t rows, int sums) {
  const ScratchPlan scratch;
  const auto module = ir::parse(module_text(o, rows, sums));
  ir::verify(*module);
  codegen::LowerOptions options{find_target(o.target), {64, rows, rows, rows, 64}, {}, row};
  options.peer_memory = row != "all_reduce.comm";
  Plan plan = scratch.compile(*module, options);
  if (!takes(plan, row)) return std::nan("");
  if (o.compile_only) return 0;
  plan.activation_dtype = "bf16";
  Ranks ranks(plan, scratch.path(), {});
  Session& session = ranks.session();
  seconds_a_step(session, rows, 5);  // warm up
  std::vector<double> seconds;
  for (int i = 0; i < 9; ++i) seconds.push_back(seconds_a_step(session, rows, o.repetitions));
  ranks.finish();
  return median(std::move(seconds)) * 1e6;
}

/// Of one sum: what a longer step takes more, so that inputs and outputs do not count.
double time_sum(const Options& o, const std::string& row, int64_t rows) {
  return (time_step(o, row, rows, 2 * o.sums) - time_step(o, row, rows, o.sums)) / o.sums;
}

void bench(const Options& o) {
  const Target& target = find_target(o.target);
  fmt::print("| KiB | row | us | expected us |\n| --- | --- | --- | --- |\n");
  for (const int64_t kib : o.kib) {
    for (const std::string& row : o.rows) {
      const double expected = kRows.at(row)(static_cast<double>(kib) * 1024, o.ranks, target);
      const double us = time_sum(o, row, kib);
      fmt::print("| {:5} | {:<22} | {:>7} | {:7.1f} |\n", kib, row,
                 std::isnan(us)   ? "-"
                 : o.compile_only ? "compiles"
                                  : fmt::format("{:.1f}", us),
                 expected * 1e6);
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace shunt

int main(int argc, char** argv) {
  using namespace shunt;
  Options o;
  CLI::App app{
      "Times sums over GPUs in every way the kernel table has (with a pointwise op behind each)."};
  app.add_option("--ranks", o.ranks, "default: the GPUs there are")->check(CLI::Range(2, 8));
  app.add_option("--kib", o.kib, "sizes of a rank's copy")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 16));
  std::vector<std::string> names;
  for (const auto& [name, expected] : kRows) names.push_back(name);
  app.add_option("--rows", o.rows, "of the kernel table (default: all)")
      ->delimiter(',')
      ->check(CLI::IsMember(names));
  app.add_option("--sums", o.sums, "by which two steps differ")->check(CLI::Range(1, 1024));
  app.add_option("--target", o.target, "default: the GPU's");
  app.add_flag("--compile-only", o.compile_only, "no GPU needed");
  CLI11_PARSE(app, argc, argv);
  try {
    if (o.rows.empty()) o.rows = names;
    if (o.target.empty()) o.target = default_target();
    if (o.ranks == 0) o.ranks = o.compile_only ? 2 : std::min(8, device_count());
    if (o.ranks < 2) user_error("sums need at least 2 GPUs");
    bench(o);
  } catch (const std::exception& e) {
    fmt::print(stderr, "all_reduce_bench: {}\n", e.what());
    return 1;
  }
  return 0;
}
