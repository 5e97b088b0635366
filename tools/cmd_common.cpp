// Flags and output shared by the subcommands (tools/cli.h).
#include <unistd.h>

#include <cstdio>

#include "ir/error.h"
#include "runtime/device.h"
#include "tools/cli.h"

namespace shunt::cli {

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& description, Command& slot,
                      Command body) {
  CLI::App* command = app.add_subcommand(name, description);
  command->callback([&slot, body = std::move(body)] { slot = body; });
  return command;
}

void CompileFlags::add_to(CLI::App* command) {
  command->add_option("--target", target, "cpu, sm_90a or sm_80 (default: the first GPU, else cpu)");
  command->add_option("--dtype", options.dtype, "type of activations: auto, bf16, f16 or f32");
  command->add_option("--max-model-len", options.max_model_len,
                      "tokens of a sequence, prompt and output (0: the model's, at most 8192)");
  command->add_option("--max-num-seqs", options.max_num_seqs, "sequences in a batch (0: 64)");
  command->add_option("--max-num-batched-tokens", options.max_num_batched_tokens, "tokens in a step (0: 2048)");
  command->add_flag("--dummy-weights", options.dummy_weights, "random weights; needs only config.json");
}

void CompileFlags::add_model_dir(CLI::App* command) {
  command->add_option("--model-dir", model_dir, "of a plan: its model directory, if that was moved");
}

CompileOptions CompileFlags::resolved(bool print_phases) const {
  CompileOptions o = options;
  o.model_dir = input;
  o.target = target.empty() ? default_target() : target;
  if (print_phases) {
    o.on_phase = [](std::string_view phase, double seconds, std::string_view remark) {
      fmt::print(stderr, "{:<22}{:8.3f} s  {}\n", phase, seconds, remark);
    };
  }
  o.on_warning = [](std::string_view warning) { fmt::print(stderr, "warning: {}\n", warning); };
  return o;
}

std::filesystem::path CompileFlags::plan_directory() const {
  if (is_plan_directory(input)) return input;
  CompileOptions o = resolved(false);
  if (target.empty() && o.target == "cpu") fmt::print(stderr, "no GPU found: running on the cpu target\n");
  const CachedPlan plan = compile_cached(o);
  fmt::print(stderr, "{} {} for {}: {}\n", plan.was_cached ? "using the cached plan of" : "compiled", input, o.target,
             plan.directory.string());
  return plan.directory;
}

void Progress::show(const std::string& line) {
  if (!::isatty(STDERR_FILENO)) return;
  fmt::print(stderr, "\r{}{}", line, std::string(shown_ > line.size() ? shown_ - line.size() : 0, ' '));
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
