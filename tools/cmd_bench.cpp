// shunt bench PLAN|MODEL_DIR: prefill and decode tokens/s with spread, and the share of the
// target's roofline.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "ir/error.h"
#include "ir/target.h"
#include "tools/bench.h"
#include "tools/cli.h"

namespace shunt::cli {

namespace {

struct Flags {
  CompileFlags compile;
  RankOptions ranks;
  std::vector<int64_t> prompts = {512, 2048}, batches = {1, 8};
  int64_t decode = 64, repetitions = 5;
  std::string output = "md", routing = "model";
  int threads = 0;
  bool profile = false;
};

std::filesystem::path plan_for(const Flags& f) {
  f.compile.check_input();
  if (is_plan_directory(f.compile.input)) return f.compile.input;
  CompileFlags flags = f.compile;
  const auto longest = *std::max_element(f.prompts.begin(), f.prompts.end()) + f.decode;
  CompileOptions& o = flags.options;
  o.max_model_len = std::max(o.max_model_len, longest);
  o.max_num_seqs = std::max(o.max_num_seqs, *std::max_element(f.batches.begin(), f.batches.end()));
  o.force_routing = f.routing == "uniform";
  return flags.plan_directory();
}

void print_header(const Plan& plan) {
  fmt::print(
      "| model | target | batch | prompt | prefill tok/s | of roofline | decode tok/s | ms/step | "
      "GB/s{0} | TFLOP/s{0} | experts/layer | of roofline |\n",
      plan.mesh.size() > 1 ? " a rank" : "");
  fmt::print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
}

/// A share of the roofline; the cpu target stands for no machine in particular, so it has none.
std::string share_text(const Plan& plan, double share) {
  return find_target(plan.target).is_cpu() ? "-" : fmt::format("{:.0f} %", share * 100);
}

void print_row(const Plan& plan, const BenchResult& r) {
  fmt::print(
      "| {} | {} | {} | {} | {:.0f} ({:.0f}..{:.0f}) | {} | {:.1f} ({:.1f}..{:.1f}) | {:.3f} | "
      "{:.0f} | "
      "{:.2f} | {:.1f} | {} |\n",
      plan.model.name, plan.target, r.what.batch, r.what.prompt, r.prefill_tokens_per_s.median,
      r.prefill_tokens_per_s.low, r.prefill_tokens_per_s.high,
      share_text(plan, r.prefill_roofline_share), r.decode_tokens_per_s.median,
      r.decode_tokens_per_s.low, r.decode_tokens_per_s.high, r.step_seconds * 1e3,
      r.decode_bytes / r.step_seconds / 1e9, r.decode_flops / r.step_seconds / 1e12,
      r.distinct_experts, share_text(plan, r.decode_roofline_share));
  std::fflush(stdout);
}

nlohmann::ordered_json to_json(const BenchResult& r) {
  const auto spread = [](const Spread& s) {
    return nlohmann::ordered_json{{"median", s.median}, {"low", s.low}, {"high", s.high}};
  };
  return {{"batch", r.what.batch},
          {"prompt", r.what.prompt},
          {"decode", r.what.decode},
          {"prefill_tokens_per_s", spread(r.prefill_tokens_per_s)},
          {"decode_tokens_per_s", spread(r.decode_tokens_per_s)},
          {"prefill_ms", r.prefill_seconds * 1e3},
          {"decode_step_ms", r.step_seconds * 1e3},
          {"distinct_experts_per_layer", r.distinct_experts},
          {"decode_bytes", r.decode_bytes},
          {"decode_flops", r.decode_flops},
          {"prefill_flops", r.prefill_flops},
          {"decode_roofline_share", r.decode_roofline_share},
          {"prefill_roofline_share", r.prefill_roofline_share}};
}

/// Where one decode step's time goes, kernel by kernel. Steps are timed one by one, which loses
/// their overlap.
void print_profile(Session& session, int64_t batch) {
  const int64_t each = session.plan().mesh.group_batch(batch);
  const auto steps = session.run_step_timed(true, each, each, each);
  const Target& target = find_target(session.plan().target);
  fmt::print(stderr, "{:<30}{:>7}{:>12}{:>10}{:>12}\n", "step", "calls", "us", "GB/s",
             "of roofline");
  for (const StepTotal& t : totals_by_name(steps)) {
    const double rate = static_cast<double>(t.bytes) / t.seconds;
    fmt::print(stderr, "{:<30}{:>7}{:>12.1f}{:>10.0f}{:>11.0f} %\n", t.name, t.calls,
               t.seconds * 1e6, rate / 1e9, rate / target.memory_bytes_per_s * 100);
  }
}

int body(const Flags& f) {
  const std::filesystem::path directory = plan_for(f);
  Plan plan = f.compile.load(directory);
  SessionOptions options;
  options.model_directory = f.compile.model_dir;
  options.threads = f.threads;
  options.capture_at_start = true;
  BenchOptions bench;
  bench.repetitions = f.repetitions;
  bench.uniform_routing = f.routing == "uniform";
  for (int64_t p : f.prompts) {
    for (int64_t b : f.batches) {
      check_bench(plan, {p, f.decode, b}, bench);
      options.kv_pages = std::max(options.kv_pages, bench_pages(plan.limits, {p, f.decode, b}));
    }
  }
  Progress progress;
  options.progress = [&](int64_t done, int64_t total) {
    progress.show(fmt::format("loading {} of {}", human_bytes(done), human_bytes(total)));
  };
  const RanksOptions rank_options = f.ranks.resolved(options);
  if (followed(directory, rank_options)) return 0;
  Ranks ranks(plan, directory, rank_options);
  Session& session = ranks.session();
  progress.clear();
  nlohmann::ordered_json out = {
      {"schema", 1},          {"model", plan.model.name},     {"target", plan.target},
      {"routing", f.routing}, {"repetitions", f.repetitions}, {"cases", nlohmann::json::array()}};
  bool header = f.output == "md";
  for (int64_t p : f.prompts) {
    for (int64_t b : f.batches) {
      bench.on_progress = [&](const std::string& line) {
        progress.show(fmt::format("prompt {}, batch {}: {}", p, b, line));
      };
      const BenchResult r = run_bench(session, {p, f.decode, b}, bench);
      progress.clear();
      if (std::exchange(header, false)) print_header(plan);
      if (f.output == "md") print_row(plan, r);
      out["cases"].push_back(to_json(r));
      if (f.profile) print_profile(session, b);
    }
  }
  ranks.finish();
  if (f.output == "json") fmt::print("{}\n", out.dump(2));
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Command& slot) {
  auto f = std::make_shared<Flags>();
  CLI::App* c = add_command(app, "bench", "Measure prefill and decode speed.", slot,
                            [f] { return body(*f); });
  const auto positive = in_range(1, int64_t{1} << 24);
  c->add_option("PLAN|MODEL_DIR", f->compile.input, "plan or model directory")->required();
  f->compile.add_to(c);
  f->compile.add_model_dir(c);
  f->ranks.add_to(c);
  c->add_option("-p,--prompt", f->prompts, "prompt lengths")->delimiter(',')->check(positive);
  c->add_option("-n,--decode", f->decode, "tokens to decode")->check(positive);
  c->add_option("-b,--batch", f->batches, "sequences in the batch")
      ->delimiter(',')
      ->check(positive);
  c->add_option("-r,--repetitions", f->repetitions, "repetitions after one warm-up")
      ->check(positive);
  c->add_option("-o,--output", f->output, "format")->check(CLI::IsMember({"md", "json"}));
  c->add_option(
       "--routing", f->routing,
       "model: the router decides; uniform: experts are drawn at random (needs a model directory)")
      ->check(CLI::IsMember({"model", "uniform"}));
  c->add_option("--threads", f->threads, "threads of the cpu target (0: all cores)")
      ->check(in_range(0, 4096));
  c->add_flag("--profile", f->profile, "also time one decode step kernel by kernel, on stderr");
}

}  // namespace shunt::cli
