// What the subcommands of `shunt` share. Each cmd_<name>.cpp registers one subcommand: flags, then
// library calls.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/ranks.h"
#include "tools/driver.h"
#include "tools/route_trace.h"

namespace shunt::cli {

/// A subcommand's body returns the exit code.
using Command = std::function<int()>;

/// Registers a subcommand; main() runs the one the user named.
CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& description,
                      Command& slot, Command body);

/// The flags of `compile` that every command taking a model directory has too.
struct CompileFlags {
  CompileOptions options;
  std::string input;      // PLAN or MODEL_DIR
  std::string target;     // empty: the first GPU, else cpu
  Mesh mesh{0, 0, 0, 0};  // 0: not given
  std::optional<double> link_gbps, link_us;
  std::string
      model_dir;  // of a plan: where its checkpoint is now; empty: where it was at compile time
  void add_to(CLI::App* command);
  /// --model-dir, for commands that load a plan.
  void add_model_dir(CLI::App* command);
  /// `options` completed with the input, target, and printing of phases and warnings to stderr.
  CompileOptions resolved(bool print_phases) const;
  /// Throws UserError if the input is no folder.
  void check_input() const;
  /// Reads a plan. If it is the input itself, throws UserError where a flag contradicts it: nothing
  /// is compiled again.
  Plan load(const std::filesystem::path& directory) const;
  /// The plan directory: the input itself if it is one, else the cached plan of the model, compiled
  /// if need be. Says on stderr what it did.
  std::filesystem::path plan_directory() const;
};

/// The flags of commands that run a plan on its ranks.
struct RankOptions {
  RankFlags flags;
  double comm_timeout = 30;
  void add_to(CLI::App* command);
  /// `session` on the ranks that flags or a launcher say this process is.
  RanksOptions resolved(SessionOptions session) const;
};

/// --route-trace, which it returns, and --route-window.
CLI::Option* add_route_trace(CLI::App* command, RouteTraceOptions& options);

/// True in a process whose rank is above 0: it has then followed rank 0 to its end.
bool followed(const std::filesystem::path& plan_directory, const RanksOptions& options);

/// Checks that a number is in [low, high]. The range shows in the error, not in -h.
CLI::Validator in_range(int64_t low, int64_t high);

/// The same for a number that may have a fraction; "nan" is none.
CLI::Validator number_between(double low, double high);

/// A line that is rewritten in place while something long runs; only on a terminal.
class Progress {
 public:
  void show(const std::string& line);
  void clear();
  ~Progress() { clear(); }

 private:
  size_t shown_ = 0;
};

/// Throws UserError (incompatible_plan) if this machine has no GPU and `target` needs one.
void require_device(const std::string& target);

/// For a plan that this machine is to run: with --peer-memory auto, without it where its GPUs
/// cannot reach each other's memory. Throws as require_device().
CompileOptions for_this_machine(CompileOptions options);

/// All bytes of a file. Throws UserError naming it.
std::string read_text(const std::filesystem::path& path);

/// "12.3 MiB".
std::string human_bytes(int64_t bytes);

void add_compile(CLI::App& app, Command& slot);
void add_run(CLI::App& app, Command& slot);
void add_inspect(CLI::App& app, Command& slot);
void add_verify(CLI::App& app, Command& slot);
void add_bench(CLI::App& app, Command& slot);
void add_place(CLI::App& app, Command& slot);

}  // namespace shunt::cli
