// The pass runner. Entry points: run_passes, run_pipeline. Tested by tests/passes/runner_test.cpp.
#include "passes/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>

#include "ir/error.h"

namespace shunt::passes {

namespace {

/// A misspelt name must not silently run (or skip) something else.
void check_name(std::span<const Pass> passes, const std::string& name, std::string_view option) {
  std::string known;
  for (const Pass& pass : passes) {
    if (pass.name == name) return;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", pass.name);
  }
  user_error("{}: there is no pass '{}' (passes: {})", option, name, known);
}

void dump(const ir::Module& module, const std::string& dir, size_t number, std::string_view name) {
  if (dir.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  const auto path = std::filesystem::path(dir) / fmt::format("{:02}-{}.mir", number, name);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << ir::print(module);
  file.close();
  if (!file) user_error("cannot write '{}': choose a folder that can be written", path.string());
}

void verify_after(const ir::Module& module, std::string_view pass) {
  try {
    ir::verify(module);
  } catch (const Error& e) {
    throw InternalError(fmt::format("after pass {}: {}", pass, e.what()));
  }
}

/// Errors of a pass say which pass they come from, and stay of their kind.
bool run_named(const Pass& pass, ir::Module& module, const PassContext& context) {
  try {
    return pass.run(module, context);
  } catch (const UserError& e) {
    throw UserError(fmt::format("pass {}: {}", pass.name, e.what()), e.kind());
  } catch (const InternalError& e) {
    throw InternalError(fmt::format("pass {}: {}", pass.name, e.what()));
  }
}

PassRecord run_one(const Pass& pass, ir::Module& module, const PassContext& context) {
  const auto start = std::chrono::steady_clock::now();
  SHUNT_CHECK(module.stage >= pass.needs, "pass {} runs at stage {}, but the module is at stage {}",
              pass.name, static_cast<int>(pass.needs), static_cast<int>(module.stage));
  const bool check = context.options.check_changed;
  const std::string before = check ? ir::print(module) : "";
  const bool changed = run_named(pass, module, context);
  if (check) {
    const bool differs = ir::print(module) != before;
    SHUNT_CHECK(differs == changed, "pass {} says that it {} the module, but it {}", pass.name,
                changed ? "changed" : "did not change", differs ? "did" : "did not");
  }
  if (changed) {
    ir::sweep(module);
    verify_after(module, pass.name);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return {std::string(pass.name), changed, seconds.count()};
}

}  // namespace

std::vector<PassRecord> run_passes(ir::Module& module, std::span<const Pass> passes,
                                   const PassContext& context) {
  const PassOptions& options = context.options;
  for (const std::string& name : options.skip) check_name(passes, name, "skip");
  if (!options.stop_after.empty()) check_name(passes, options.stop_after, "stop-after");
  ir::verify(module);
  dump(module, options.dump_dir, 0, "input");

  std::vector<PassRecord> records;
  for (size_t i = 0; i < passes.size(); ++i) {
    const Pass& pass = passes[i];
    const bool skipped =
        std::find(options.skip.begin(), options.skip.end(), pass.name) != options.skip.end();
    if (!skipped) {
      records.push_back(run_one(pass, module, context));
      if (records.back().changed) dump(module, options.dump_dir, i + 1, pass.name);
    }
    if (options.stop_after == pass.name) break;
  }
  return records;
}

std::vector<PassRecord> run_pipeline(ir::Module& module, const Target& target,
                                     const PassOptions& options) {
  const RooflineCostModel cost(target);
  return run_passes(module, pipeline(), PassContext{target, options, cost});
}

}  // namespace shunt::passes
