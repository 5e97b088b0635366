// shunt inspect PLAN|MODEL_DIR|FILE.mir: needs no GPU and no weights.
#include <nlohmann/json.hpp>

#include "ir/error.h"
#include "tools/cli.h"
#include "tools/explain.h"
#include "tools/inspect.h"

namespace shunt::cli {

namespace {

namespace fs = std::filesystem;

struct Flags {
  CompileFlags compile;
  std::vector<std::string> show = {"summary", "layers"};
  std::string output = "text", program;
  bool explain = false;
};

int print_module(const Flags& f) {
  const std::string text = read_text(f.compile.input);
  std::unique_ptr<ir::Module> module;
  try {
    module = ir::parse(text);
    ir::verify(*module);
  } catch (const UserError& e) {
    user_error("{}: {}", f.compile.input, e.what());
  }
  if (f.output == "dot") {
    fmt::print("{}", inspect_dot(*module));
  } else if (f.output == "json") {
    fmt::print("{}\n", inspect_json(*module, f.show).dump(2));
  } else {
    fmt::print("{}", inspect_text(*module, f.show));
  }
  return 0;
}

/// Shapes come from config.json alone: a folder without weights is inspected all the same.
CompileOptions options_of(const Flags& f) {
  CompileOptions o = f.compile.resolved(false);
  const fs::path dir = f.compile.input;
  const bool weights = fs::exists(dir / "model.safetensors") ||
                       fs::exists(dir / "model.safetensors.index.json") ||
                       fs::exists(dir / "ds_inference_config.json");
  o.dummy_weights = o.dummy_weights || !weights;
  return o;
}

Plan plan_of(const Flags& f) {
  f.compile.check_input();
  if (is_plan_directory(f.compile.input)) return f.compile.load(f.compile.input);
  return compile(options_of(f), /*plan_only=*/true).plan;
}

int print_explanation(const Flags& f) {
  f.compile.check_input();
  if (f.compile.input.ends_with(".mir") || is_plan_directory(f.compile.input)) {
    user_error("{}: --explain needs a model directory: a plan does not hold its config.json",
               f.compile.input);
  }
  if (f.output == "dot") user_error("--explain has no drawing: use -o text or -o json");
  const Explanation explanation = explain(options_of(f));
  if (f.output == "json") {
    fmt::print("{}\n", explain_json(explanation).dump(2));
  } else {
    fmt::print("{}", explain_text(explanation));
  }
  return 0;
}

int body(const Flags& f) {
  if (f.explain) return print_explanation(f);
  if (f.compile.input.ends_with(".mir")) return print_module(f);
  const Plan plan = plan_of(f);
  if (f.output == "dot") {
    fmt::print("{}", inspect_dot(plan, f.program));
  } else if (f.output == "json") {
    fmt::print("{}\n", inspect_json(plan, f.show, f.program).dump(2));
  } else {
    fmt::print("{}", inspect_text(plan, f.show, f.program));
  }
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Command& slot) {
  auto f = std::make_shared<Flags>();
  CLI::App* c = add_command(app, "inspect",
                            "Show a plan, a model or a .mir file; needs no GPU and no weights.",
                            slot, [f] { return body(*f); });
  c->add_option("PLAN|MODEL_DIR|FILE.mir", f->compile.input, "what to look at")->required();
  f->compile.add_to(c);
  c->add_option("--show", f->show, "sections")
      ->delimiter(',')
      ->check(CLI::IsMember({"summary", "layers", "kernels", "memory", "placement", "comm"}));
  c->add_flag(
      "--explain", f->explain,
      "of a model directory: what each key of the config decides, which are ignored and why, "
      "and what becomes of each tensor");
  c->add_option("-o,--output", f->output, "format")->check(CLI::IsMember({"text", "json", "dot"}));
  c->add_option("--program", f->program,
                "program whose layers are shown (default: decode of 1, largest prefill)");
}

}  // namespace shunt::cli
