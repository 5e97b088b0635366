// The one program. Exit codes: 0 done, 1 `verify` found a difference, 2 bad input or flags, 3 a
// plan for another program, target or machine, 4 CUDA or a peer failed, 70 a bug in Shunt, 130
// interrupted.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <system_error>

#include "ir/error.h"
#include "tools/cli.h"

namespace {

/// The first word of the command line that looks like a flag and is none; "" if there is none.
std::string unknown_flag(const CLI::App& command, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word.size() < 2 || word[0] != '-' || word[1] == '.' || (word[1] >= '0' && word[1] <= '9'))
      continue;
    if (word == "--") break;
    const bool is_long = word[1] == '-';
    const std::string name(is_long ? word.substr(0, word.find('=')) : word.substr(0, 2));
    if (command.get_option_no_throw(name) == nullptr) return name;
  }
  return "";
}

/// One line for a command line that does not parse.
int report_usage(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const auto commands = app.get_subcommands();
  std::string what = error.what();
  std::replace(what.begin(), what.end(), '\n', ' ');
  if (commands.empty() && argc > 1 && argv[1][0] != '-') {
    what = fmt::format("unknown command '{}'; there are:", argv[1]);
    for (const CLI::App* c : app.get_subcommands([](const CLI::App*) { return true; })) {
      what += ' ' + c->get_name();
    }
  }
  // A misspelt flag comes first: what else is wrong may follow from it.
  if (const std::string flag = commands.empty() ? "" : unknown_flag(*commands[0], argc, argv);
      !flag.empty()) {
    what = fmt::format("unknown flag {}", flag);
  }
  fmt::print(stderr, "shunt: error: {} (see `shunt{} -h`)\n", what,
             commands.empty() ? "" : " " + commands[0]->get_name());
  return 2;
}

int run(int argc, char** argv) {
  CLI::App app{"Shunt compiles Mixture-of-Experts transformers to plans and runs them."};
  app.set_version_flag("--version", SHUNT_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->always_capture_default();
  shunt::cli::Command command;
  shunt::cli::add_compile(app, command);
  shunt::cli::add_run(app, command);
  shunt::cli::add_inspect(app, command);
  shunt::cli::add_verify(app, command);
  shunt::cli::add_bench(app, command);
  shunt::cli::add_place(app, command);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return e.get_exit_code() == 0 ? app.exit(e) : report_usage(app, e, argc, argv);
  }
  const int code = command();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    shunt::user_error("standard output cannot be written");
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const shunt::UserError& e) {
    fmt::print(stderr, "shunt: error: {}\n", e.what());
    return e.kind() == shunt::UserError::Kind::incompatible_plan ? 3 : 2;
  } catch (const shunt::DeviceError& e) {
    fmt::print(stderr, "shunt: device error: {}\n", e.what());
    return 4;
  } catch (const std::filesystem::filesystem_error& e) {
    fmt::print(stderr, "shunt: error: {}: {}\n", e.path1().string(), e.code().message());
    return 2;
  } catch (const std::system_error& e) {  // reading, writing, starting threads
    fmt::print(stderr, "shunt: error: {}\n", e.what());
    return 2;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "shunt: error: out of host memory\n");
    return 4;
  } catch (const std::exception& e) {
    fmt::print(stderr,
               "shunt: {}\nThis is a bug in Shunt: please report it with the command line.\n",
               e.what());
    return 70;
  }
}
