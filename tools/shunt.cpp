// The one program. Exit codes: 0 done, 1 `verify` found a difference, 2 bad input or flags, 3 a plan for another
// program, target or machine, 4 CUDA or a peer failed, 70 a bug in Shunt, 130 interrupted.
#include <fmt/core.h>

#include <cstdio>
#include <exception>

#include "ir/error.h"
#include "tools/cli.h"

namespace {

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
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  return command();
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
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "shunt: error: out of host memory\n");
    return 4;
  } catch (const std::exception& e) {
    fmt::print(stderr, "shunt: {}\nThis is a bug in Shunt: please report it with the command line.\n", e.what());
    return 70;
  }
}
