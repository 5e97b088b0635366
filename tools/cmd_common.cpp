// Flags and output shared by the subcommands (tools/cli.h).
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "ir/error.h"
#include "ir/target.h"
#include "runtime/device.h"
#include "tools/cli.h"

namespace shunt::cli {

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& description,
                      Command& slot, Command body) {
  CLI::App* command = app.add_subcommand(name, description);
  command->callback([&slot, body = std::move(body)] { slot = body; });
  return command;
}

CLI::Validator in_range(int64_t low, int64_t high) {
  return CLI::Validator(CLI::Range(low, high)).description("");
}

CLI::Validator number_between(double low, double high) {
  return CLI::Validator(
      [low, high](std::string& text) {
        char* end = nullptr;
        const double x = std::strtod(text.c_str(), &end);
        if (end != text.c_str() && *end == '\0' && x >= low && x <= high) return std::string();
        return fmt::format("{} is no number from {} to {}", text, low, high);
      },
      "");
}

void CompileFlags::add_to(CLI::App* command) {
  const auto count = in_range(0, int64_t{1} << 40);
  command
      ->add_option("--target", target, "machine to compile for (default: the first GPU, else cpu)")
      ->check(CLI::IsMember({"cpu", "sm_90a", "sm_80"}));
  command->add_option("--dtype", options.dtype, "type of activations")
      ->check(CLI::IsMember({"auto", "bf16", "f16", "f32"}));
  command
      ->add_option("--max-model-len", options.max_model_len,
                   "tokens of a sequence, prompt and output (0: the model's, at most 8192)")
      ->check(count);
  command->add_option("--max-num-seqs", options.max_num_seqs, "sequences in a batch (0: 64)")
      ->check(count);
  command
      ->add_option("--max-num-batched-tokens", options.max_num_batched_tokens,
                   "tokens in a step (0: 2048)")
      ->check(count);
  command->add_flag("--dummy-weights", options.dummy_weights,
                    "random weights; needs only config.json");
  command->add_flag("--allow-unused-tensors", options.allow_unused_tensors,
                    "tensors among the model's own that nothing asks for are no error");
  const auto ranks = in_range(0, kMaxRanks);
  command->add_option("--tp", mesh.tp, "ranks that share attention and dense layers (0: choose)")
      ->check(ranks);
  command->add_option("--dp", mesh.dp, "groups of ranks with batches of their own (0: choose)")
      ->check(ranks);
  command->add_option("--ep", mesh.ep, "ranks among which experts are spread (0: choose)")
      ->check(ranks);
  command->add_option("--etp", mesh.etp, "ranks that share an expert (0: choose)")->check(ranks);
  command
      ->add_option("--moe-comm", options.moe_comm,
                   "how tokens of dp groups reach their experts (auto: alltoall over peer memory, "
                   "else allgather)")
      ->check(CLI::IsMember({"auto", "allgather", "alltoall"}));
  command
      ->add_option("--peer-memory", options.peer_memory,
                   "sums and dispatch of tokens through each other's memory; GPUs of one "
                   "node (auto: sm_90a, at most 8 ranks)")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  command->add_option("--keep-whole", options.keep_whole,
                      "what ranks along tp compute whole instead of a part: auto (what is quicker "
                      "so, for 8 sequences of 1024 tokens), none, or names by commas, as "
                      "compile --explain prints them");
  command
      ->add_option("--link-gbps", link_gbps,
                   "10^9 bytes a second of a rank's link, each way, where it is not NVLink")
      ->check(number_between(1e-3, 1e6));
  command
      ->add_option("--link-us", link_us,
                   "microseconds of the smallest all-reduce of two ranks over such links")
      ->check(number_between(1e-3, 1e9));
  command->add_option("--expert-map", options.expert_map,
                      "which rank has which expert: JSON made by `shunt place`");
}

/// The axes that were not given, so that dp * tp == ep * etp. With tp alone experts are sliced as
/// dense layers are; with dp they are spread.
Mesh complete_mesh(Mesh given) {
  Mesh m = given;
  const auto of = [](int n) { return std::max(n, 1); };
  const int ranks = std::max(of(m.dp) * of(m.tp), of(m.ep) * of(m.etp));
  const auto fill = [&](int& free, int other) {
    if (free == 0) free = std::max(1, ranks / other);
  };
  if (m.dp == 0 && m.tp == 0) m.dp = 1;
  fill(m.tp, of(m.dp));
  fill(m.dp, of(m.tp));
  if (m.ep == 0 && m.etp == 0) (m.dp > 1 ? m.etp : m.ep) = 1;
  fill(m.ep, of(m.etp));
  fill(m.etp, of(m.ep));
  validate(m);
  return m;
}

void CompileFlags::add_model_dir(CLI::App* command) {
  command->add_option("--model-dir", model_dir,
                      "of a plan: its model directory, if that was moved");
}

CompileOptions CompileFlags::resolved(bool print_phases) const {
  CompileOptions o = options;
  o.model_dir = input;
  o.target = target.empty() ? default_target() : target;
  o.mesh = complete_mesh(mesh);
  if (link_gbps) o.link_bytes_per_s = *link_gbps * 1e9;
  if (link_us) o.link_seconds = *link_us * 1e-6;
  if (print_phases) {
    o.on_phase = [](std::string_view phase, double seconds, std::string_view remark) {
      fmt::print(stderr, "{:<22}{:8.3f} s{}{}\n", phase, seconds, remark.empty() ? "" : "  ",
                 remark);
    };
  }
  o.on_warning = [](std::string_view warning) { fmt::print(stderr, "warning: {}\n", warning); };
  return o;
}

void CompileFlags::check_input() const {
  std::error_code error;
  if (!std::filesystem::exists(input, error))
    user_error("{}: no such model or plan directory", input);
  if (!std::filesystem::is_directory(input, error))
    user_error("{} is a file: give the folder that holds it", input);
}

Plan CompileFlags::load(const std::filesystem::path& directory) const {
  Plan plan = load_plan(directory);
  if (!is_plan_directory(input)) return plan;
  if (!target.empty() && target != plan.target)
    plan_error("{} is a plan for {}, not {}", input, plan.target, target);
  const char* flag = options.dtype != "auto"               ? "--dtype"
                     : options.max_model_len != 0          ? "--max-model-len"
                     : options.max_num_seqs != 0           ? "--max-num-seqs"
                     : options.max_num_batched_tokens != 0 ? "--max-num-batched-tokens"
                     : options.dummy_weights               ? "--dummy-weights"
                     : options.allow_unused_tensors        ? "--allow-unused-tensors"
                     : mesh != Mesh{0, 0, 0, 0}            ? "--tp, --dp, --ep or --etp"
                     : options.moe_comm != "auto"          ? "--moe-comm"
                     : options.peer_memory != "auto"       ? "--peer-memory"
                     : options.keep_whole != "auto"        ? "--keep-whole"
                     : link_gbps                           ? "--link-gbps"
                     : link_us                             ? "--link-us"
                     : !options.expert_map.empty()         ? "--expert-map"
                                                           : nullptr;
  if (flag != nullptr) {
    user_error(
        "{} has no effect on a plan: {} was compiled already; compile the model directory again",
        flag, input);
  }
  return plan;
}

std::filesystem::path CompileFlags::plan_directory() const {
  check_input();
  if (is_plan_directory(input)) return input;
  const CompileOptions o = for_this_machine(resolved(false));
  if (target.empty() && o.target == "cpu")
    fmt::print(stderr, "no GPU found: running on the cpu target\n");
  const CachedPlan plan = compile_cached(o);
  fmt::print(stderr, "{} {} for {}: {}\n",
             plan.was_cached ? "using the cached plan of" : "compiled", input, o.target,
             plan.directory.string());
  return plan.directory;
}

void RankOptions::add_to(CLI::App* command) {
  command
      ->add_option("--comm-timeout", comm_timeout, "seconds that a wait for another rank may take")
      ->check(number_between(0.1, 86400));
  command->add_option("--rank", flags.rank, "this process's rank (default: as launched)");
  command->add_option("--world-size", flags.world, "processes, one a rank (default: as launched)");
  command->add_option("--local-rank", flags.local_rank,
                      "this process's GPU (default: as launched)");
  command->add_option("--master-addr", flags.master_addr, "host of rank 0 (default: as launched)");
  command->add_option("--master-port", flags.master_port, "port of rank 0 (default: as launched)");
}

RanksOptions RankOptions::resolved(SessionOptions session) const {
  RanksOptions o;
  o.session = std::move(session);
  o.launch = detect_launch(flags);
  o.comm_timeout = Milliseconds(static_cast<int64_t>(comm_timeout * 1000));
  return o;
}

CLI::Option* add_route_trace(CLI::App* command, RouteTraceOptions& options) {
  CLI::Option* trace = command->add_option(
      "--route-trace", options.file,
      "count the routes to each expert into this file: a profile for `shunt place`");
  command
      ->add_option("--route-window", options.window,
                   "with --route-trace: tokens a window of the profile (0: one window)")
      ->needs(trace)
      ->check(in_range(0, int64_t{1} << 40));
  return trace;
}

bool followed(const std::filesystem::path& plan_directory, const RanksOptions& options) {
  if (options.launch.rank == 0) return false;
  Ranks ranks(load_plan(plan_directory), plan_directory, options);
  ranks.follow();
  return true;
}

void require_device(const std::string& target) {
  if (find_target(target).is_cpu() || device_count() > 0) return;
  plan_error(
      "--target {} needs a GPU and this machine has none: use --target cpu, or `shunt compile` for "
      "a plan to "
      "take to another machine",
      target);
}

CompileOptions for_this_machine(CompileOptions options) {
  require_device(options.target);
  const bool asks = options.peer_memory == "auto" && uses_peer_memory(options);
  if (asks && !devices_reach_each_other(options.mesh.size())) options.peer_memory = "off";
  return options;
}

std::string read_text(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    user_error("{} is a folder: give a file", path.string());
  std::ifstream file(path, std::ios::binary);
  if (!file) user_error("{}: cannot be opened; check the path", path.string());
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void Progress::show(const std::string& line) {
  if (!::isatty(STDERR_FILENO)) return;
  fmt::print(stderr, "\r{}{}", line,
             std::string(shown_ > line.size() ? shown_ - line.size() : 0, ' '));
  std::fflush(stderr);
  shown_ = line.size();
}

void Progress::clear() {
  if (shown_ == 0) return;
  fmt::print(stderr, "\r{}\r", std::string(shown_, ' '));
  shown_ = 0;
}

std::string human_bytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, kUnits[unit]);
}

}  // namespace shunt::cli
