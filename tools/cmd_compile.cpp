// shunt compile MODEL_DIR -o PLAN: the offline compiler. Prints phases with seconds; --dry-run
// prints bytes only.
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ir/error.h"
#include "runtime/session.h"
#include "tools/cli.h"
#include "tools/layout.h"

namespace shunt::cli {

namespace {

struct Flags {
  CompileFlags compile;
  std::string output;
  std::string dump_phases, dump_kernels;
  bool dry_run = false, explain = false;
  int gpus = 0;
  std::optional<int64_t> batch, context;
  bool json = false;
};

/// What a rank needs. KV: for max_num_seqs sequences of max_model_len, which is what never
/// preempts.
int print_memory(const Plan& plan, bool json) {
  const int64_t pages_per_seq =
      (plan.limits.max_model_len + plan.limits.page_size - 1) / plan.limits.page_size;
  const int64_t pages = pages_per_seq * plan.limits.max_num_seqs;
  const MemoryUse use = memory_needed(plan, pages);
  const int64_t activations = use.workspace + use.io;
  if (json) {
    const nlohmann::ordered_json out = {{"schema", 1},
                                        {"target", plan.target},
                                        {"weights_bytes", use.weights},
                                        {"kv_bytes", use.state},
                                        {"kv_page_bytes", plan.page_bytes()},
                                        {"kv_pages", pages},
                                        {"recurrent_state_bytes", use.slots},
                                        {"recurrent_state_bytes_per_sequence", plan.slot_bytes()},
                                        {"activation_bytes", activations},
                                        {"peer_bytes", use.peer},
                                        {"total_bytes", use.total()}};
    fmt::print("{}\n", out.dump(2));
    return 0;
  }
  const auto row = [](const char* what, int64_t bytes) {
    fmt::print("{:<14}{:>18}  {}\n", what, bytes, human_bytes(bytes));
  };
  row("weights", use.weights);
  row("KV", use.state);
  if (use.slots > 0) row("recurrent", use.slots);
  row("activations", activations);
  if (use.peer > 0) row("peer memory", use.peer);
  row("total", use.total());
  fmt::print("KV: {} pages of {} bytes for {} sequences of {} tokens, and one for padding\n", pages,
             plan.page_bytes(), plan.limits.max_num_seqs, plan.limits.max_model_len);
  if (use.slots > 0) {
    fmt::print("recurrent: state of {} bytes for each of {} sequences, and one for padding\n",
               plan.slot_bytes(), plan.limits.max_num_seqs);
  }
  return 0;
}

/// What layouts and sharding are chosen for. What is not given is as usual, or less if the plan
/// holds less.
passes::Workload workload_of(const Flags& flags, CompileOptions o) {
  passes::Workload w;
  const bool chooses = flags.gpus > 0 || o.mesh.tp > 1;
  if (!chooses && !flags.batch && !flags.context) return w;  // nobody asks: the model is read once
  o.on_warning = {};  // those of the model are said where it is compiled
  const Limits limits = import_module(o, false).limits;
  w.context = flags.context.value_or(std::min(w.context, limits.max_model_len));
  w.batch = flags.batch.value_or(w.batch);
  if (w.context > limits.max_model_len) {
    user_error("--context {} is more than the {} tokens of a sequence (--max-model-len)", w.context,
               limits.max_model_len);
  }
  const int64_t most = limits.max_num_seqs * (flags.gpus > 0 ? flags.gpus : o.mesh.dp);
  if (flags.batch && w.batch > most) {
    user_error("--batch {} is more than the {} sequences that decode at once (--max-num-seqs)",
               w.batch, most);
  }
  return w;
}

/// The layouts that fit come first: if the first one does not, none does.
void check_fits(const Layout& best, const Flags& flags, const passes::Workload& workload) {
  if (best.fits) return;
  const std::string text = fmt::format(
      "no layout of {} GPUs fits: {} needs {} a rank for batch {} and context {}", flags.gpus,
      best.mesh.to_string(), human_bytes(best.rank_bytes), workload.batch, workload.context);
  if (!flags.dry_run) user_error("{}; use more GPUs, or give --tp and the like", text);
  fmt::print(stderr, "warning: {}\n", text);
}

int body(const Flags& flags) {
  flags.compile.check_input();
  if (is_plan_directory(flags.compile.input)) {
    user_error("{} is a plan already: compile takes a model directory", flags.compile.input);
  }
  CompileOptions o = flags.compile.resolved(!flags.json);
  o.workload = workload_of(flags, o);
  const bool explains = flags.gpus > 0 && flags.explain;
  if (flags.output.empty() && !flags.dry_run && !explains)
    user_error("compile needs -o PLAN (or --dry-run)");
  if (flags.gpus > 0) {
    if (!flags.output.empty()) check_plan_destination(flags.output);
    Progress progress;
    const auto layouts = compare_layouts(o, flags.gpus, flags.compile.mesh, o.workload,
                                         [&](const std::string& line) { progress.show(line); });
    progress.clear();
    o.on_warning = {};  // they were said
    if (const std::string w = links_warning(o, flags.gpus); !w.empty())
      fmt::print(stderr, "warning: {}\n", w);
    if (flags.explain)
      fmt::print(flags.json ? stderr : stdout, "{}", layout_table(layouts, o.workload));
    if (!layouts.front().refused.empty()) user_error("{}", layouts.front().refused);
    o.mesh = layouts.front().mesh;
    if (o.mesh.tp == 1 && o.keep_whole != "auto" && o.keep_whole != "none") {
      fmt::print(stderr, "warning: --keep-whole {} has no effect: with tp 1 all is whole\n",
                 o.keep_whole);
    }
    const std::vector<std::string>& whole = layouts.front().keep_whole;
    o.keep_whole = whole.empty() ? "none" : fmt::format("{}", fmt::join(whole, ","));
    fmt::print(stderr, "layout for {} GPUs: {}{}\n", flags.gpus, o.mesh.to_string(),
               o.mesh.tp == 1 ? "" : "; whole: " + kept_whole_text(whole));
    if (explains && flags.output.empty() && !flags.dry_run) return 0;
    check_fits(layouts.front(), flags, o.workload);
  }
  o.dump_phases_to = flags.dump_phases;
  o.dump_kernels_to = flags.dump_kernels;
  if (flags.dry_run) return print_memory(compile(o, /*plan_only=*/true).plan, flags.json);
  check_plan_destination(flags.output);
  const CompiledPlan compiled = compile(o);
  write_plan(compiled, flags.output);
  fmt::print(stderr, "wrote {} for {} ({} kernels, {} of weights)\n", flags.output, o.target,
             compiled.plan.kernels.size(), human_bytes(compiled.plan.weights_bytes));
  return 0;
}

}  // namespace

void add_compile(CLI::App& app, Command& slot) {
  auto flags = std::make_shared<Flags>();
  CLI::App* c = add_command(app, "compile", "Compile a model directory to a plan; needs no GPU.",
                            slot, [flags] { return body(*flags); });
  c->add_option("MODEL_DIR", flags->compile.input, "Hugging Face model directory")->required();
  c->add_option("-o,--output", flags->output, "plan directory to write");
  flags->compile.add_to(c);
  c->add_option("--jobs,-j", flags->compile.options.jobs,
                "threads that compile kernels (0: all cores)")
      ->check(in_range(0, 4096));
  c->add_option("--dump-phases-to", flags->dump_phases,
                "folder for the module after every pass (.mir)");
  CLI::Option* dump_kernels = c->add_option("--dump-kernels-to", flags->dump_kernels,
                                            "folder for kernel sources and cubins");
  CLI::Option* gpus = c->add_option(
      "--gpus", flags->gpus, "choose the layout for this many GPUs (0: as --tp and the like say)");
  gpus->check(in_range(0, kMaxRanks));
  c->add_flag("--explain", flags->explain, "with --gpus: print all layouts, predicted")
      ->needs(gpus);
  c->add_option(
       "--batch", flags->batch,
       "sequences that decode at once, for which --gpus and --keep-whole auto choose (default: 8)")
      ->check(in_range(1, 1 << 20));
  c->add_option("--context", flags->context,
                "tokens a sequence has then (default: 1024, or --max-model-len if that is less)")
      ->check(in_range(1, 1 << 24));
  CLI::Option* dry_run = c->add_flag("--dry-run", flags->dry_run,
                                     "print the exact bytes a rank needs and write no plan");
  dry_run->excludes(dump_kernels);  // it compiles none
  c->add_flag("--json", flags->json, "with --dry-run: JSON on stdout")->needs(dry_run);
}

}  // namespace shunt::cli
