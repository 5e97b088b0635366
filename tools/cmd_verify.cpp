// shunt verify PLAN|MODEL_DIR: golden tensors, or the mean negative log-likelihood of a text. Exit
// 0 equal, 1 not.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "ir/error.h"
#include "ir/target.h"
#include "runtime/engine/tokenizer.h"
#include "tools/cli.h"
#include "tools/route_trace.h"
#include "tools/verify.h"

namespace shunt::cli {

namespace {

struct Flags {
  CompileFlags compile;
  RankOptions ranks;
  std::string golden, text;
  double atol = -1, rtol = -1, margin = -1;
  int64_t tokens = 0, window = 512, kv_pages = 0;
  bool reference = false, logical = false, json = false;
  RouteTraceOptions trace;
};

/// The golden beside the model if the user names none.
std::string find_golden(const Flags& f) {
  if (!f.golden.empty()) return f.golden;
  for (const char* name : {"golden.safetensors", "golden.json"}) {
    const auto path = std::filesystem::path(f.compile.input) / name;
    if (std::filesystem::exists(path)) return path.string();
  }
  user_error("{} has no golden.safetensors or golden.json: give --golden FILE, or --text FILE",
             f.compile.input);
}

/// A plan made for verifying: logits of every row, near-ties can be forced.
CompileOptions verify_options(const Flags& f, int64_t sequences, int64_t tokens, int64_t longest) {
  CompileOptions o = f.compile.resolved(false);
  o.force_routing = !find_target(o.target).is_cpu();
  o.gather_logits = o.mesh.dp > 1;
  o.max_num_seqs = std::max(o.max_num_seqs, sequences);
  o.max_num_batched_tokens = std::max(o.max_num_batched_tokens, tokens);
  o.max_logit_rows = tokens;
  o.max_model_len = std::max(o.max_model_len, longest);
  return o;
}

/// nullptr in a process whose rank is above 0: rank 0 reports.
std::unique_ptr<StepRunner> make_runner(const Flags& f, const CompileOptions& o, int64_t pages,
                                        bool* float32) {
  if (f.reference || f.logical) {
    CompileOptions cpu = o;
    cpu.target = "cpu";
    cpu.force_routing = false;
    *float32 = true;
    return make_reference_runner(cpu, !f.logical, pages);
  }
  const std::filesystem::path plan = is_plan_directory(f.compile.input)
                                         ? std::filesystem::path(f.compile.input)
                                         : compile_cached(for_this_machine(o)).directory;
  const Plan loaded = f.compile.load(plan);
  *float32 = loaded.activation_dtype == "f32";
  SessionOptions session;
  session.kv_pages = f.kv_pages;
  session.model_directory = f.compile.model_dir;
  const RanksOptions ranks = f.ranks.resolved(session);
  check_route_trace(f.trace, loaded, ranks.launch.rank);
  if (followed(plan, ranks)) return nullptr;
  return make_plan_runner(plan, ranks);
}

/// The input, or of a plan where its model directory is.
std::filesystem::path model_directory(const CompileFlags& compile) {
  if (!is_plan_directory(compile.input)) return compile.input;
  return compile.model_dir.empty() ? load_plan(compile.input).model_directory : compile.model_dir;
}

/// What near-ties need: how the model routes, and a float32 plan of it.
void add_routers(const Flags& f, CompileOptions o, int64_t pages, VerifyOptions& options) {
  o.model_dir = model_directory(f.compile);
  o.target = "cpu";
  o.mesh = {};
  o.expert_map.clear();
  o.dtype = "auto";
  o.force_routing = false;
  o.on_warning = {};  // the plan's own compilation has warned
  options.routers = read_routers(o);
  options.make_float32_runner = [o, pages] {
    return make_plan_runner(compile_cached(o).directory, pages);
  };
}

/// A golden is of one batch; where a gate counts its dp group's tokens, another split keeps others.
void check_capacity(const Flags& f, CompileOptions o) {
  const int dp =
      is_plan_directory(f.compile.input) ? load_plan(f.compile.input).mesh.dp : o.mesh.dp;
  if (dp == 1) return;
  o.model_dir = model_directory(f.compile);
  o.on_warning = {};  // what the model's own compilation says
  const auto module = import_module(o, false).module;
  for (const auto& op : module->find_graph("step")->ops) {
    if (op->kind != ir::OpKind::topk_gate) continue;
    if (op->as<ir::TopkGateAttrs>().capacity_factor <= 0) continue;
    user_error(
        "an expert keeps as many tokens as the batch of a dp group allows (capacity_factor): with "
        "dp {} the golden, which is of one batch, is not to be expected; verify without --dp",
        dp);
  }
}

int print_report(const VerifyReport& report, bool json) {
  if (json) {
    nlohmann::ordered_json out = {
        {"schema", 1}, {"ok", report.ok()}, {"checks", nlohmann::json::array()}};
    for (const VerifyLine& l : report.lines)
      out["checks"].push_back({{"what", l.what}, {"ok", l.ok}, {"text", l.text}});
    fmt::print("{}\n", out.dump(2));
  } else {
    for (const VerifyLine& l : report.lines)
      fmt::print("{:<5}{:<24}{}\n", l.ok ? "ok" : "FAIL", l.what, l.text);
    fmt::print("{}\n", report.ok() ? "verified" : "NOT equal");
  }
  return report.ok() ? 0 : 1;
}

int verify_nll(const Flags& f) {
  const std::string text = read_text(f.text);
  std::vector<int32_t> ids =
      Tokenizer::from_file(model_directory(f.compile) / "tokenizer.json").encode(text);
  if (f.tokens > 0) {
    if (static_cast<int64_t>(ids.size()) < f.tokens)
      user_error("{} has {} tokens, not {}", f.text, ids.size(), f.tokens);
    ids.resize(f.tokens);
  }
  const CompileOptions o = verify_options(f, 1, f.window, f.window);
  bool float32 = true;
  auto runner = make_runner(f, o, (f.window + 63) / 64, &float32);
  if (runner == nullptr) return 0;
  RouteTrace trace(f.trace, [&] { return runner->route_counts(); });
  Progress progress;
  const double nll = mean_nll(*runner, ids, f.window, [&](int64_t done) {
    trace.advance(done);
    progress.show(fmt::format("{} of {} tokens", done, ids.size()));
  });
  progress.clear();
  trace.finish();
  if (f.json) {
    const nlohmann::ordered_json out = {
        {"schema", 1}, {"tokens", ids.size()}, {"window", f.window}, {"nll", nll}};
    fmt::print("{}\n", out.dump());
  } else {
    fmt::print("mean negative log-likelihood {:.5f} nats over {} tokens in windows of {}\n", nll,
               ids.size(), f.window);
  }
  return 0;
}

int body(const Flags& f) {
  f.compile.check_input();
  if ((f.reference || f.logical) && is_plan_directory(f.compile.input)) {
    user_error("--reference and --logical evaluate a model directory, and {} is a plan",
               f.compile.input);
  }
  if (!f.text.empty()) return verify_nll(f);
  const std::vector<GoldenSequence> golden = load_golden(find_golden(f));
  const auto [sequences, tokens, longest] = sizes_of(golden);
  VerifyOptions options;
  const CompileOptions compile = verify_options(f, sequences, tokens, longest);
  const int64_t pages = sequences * (longest / 64 + 1);
  check_capacity(f, compile);
  auto runner = make_runner(f, compile, pages, &options.float32);
  if (runner == nullptr) return 0;
  if (!options.float32) add_routers(f, compile, pages, options);
  if (f.atol >= 0) options.atol = f.atol;
  if (f.rtol >= 0) options.rtol = f.rtol;
  if (f.margin >= 0) options.margin = f.margin;
  return print_report(verify_golden(*runner, golden, options), f.json);
}

}  // namespace

void add_verify(CLI::App& app, Command& slot) {
  auto f = std::make_shared<Flags>();
  CLI::App* c = add_command(app, "verify",
                            "Compare with golden tensors, or print the negative log-likelihood.",
                            slot, [f] { return body(*f); });
  c->add_option("PLAN|MODEL_DIR", f->compile.input, "plan or model directory")->required();
  f->compile.add_to(c);
  f->compile.add_model_dir(c);
  f->ranks.add_to(c);
  c->add_option("--golden", f->golden,
                "golden file (default: golden.safetensors or golden.json in the directory)");
  c->add_option("--atol", f->atol, "absolute tolerance (-1: the default rule)")
      ->check(number_between(-1, 1e9));
  c->add_option("--rtol", f->rtol, "relative tolerance (-1: the default rule)")
      ->check(number_between(-1, 1e9));
  c->add_option("--margin", f->margin,
                "least golden margin of greedy ids that are compared (-1: 1e-3, on a GPU 0.25)")
      ->check(number_between(-1, 1e9));
  CLI::Option* text = c->add_option("--text", f->text,
                                    "print the mean negative log-likelihood of this text instead");
  c->add_option("--tokens", f->tokens, "with --text: only its first N tokens (0: all)")
      ->check(in_range(0, int64_t{1} << 40));
  c->add_option("--window", f->window, "with --text: tokens a window, each on its own")
      ->check(in_range(2, 1 << 20));
  add_route_trace(c, f->trace)->needs(text);
  c->add_option("--kv-pages", f->kv_pages, "pages of KV state (0: what memory allows)");
  c->add_flag("--reference", f->reference,
              "run the reference evaluator on the compiled module instead of a plan");
  c->add_flag("--logical", f->logical, "run the reference evaluator on the module before any pass");
  c->add_flag("--json", f->json, "JSON on stdout");
}

}  // namespace shunt::cli
