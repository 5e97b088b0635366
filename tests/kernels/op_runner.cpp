// Runs a case of op_cases.h through lowering, NVRTC and Session, and compares with the evaluator.
// Entry points: CaseRunner, compile_kernels. Used by op_cpu_test.cpp and op_gpu_test.cpp.
#include "tests/kernels/op_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <thread>

#include "codegen/kernel_headers.h"
#include "ir/error.h"
#include "ir/reference/evaluator.h"
#include "runtime/jit/jit.h"
#include "runtime/session.h"
#include "tests/mir_cases.h"

namespace shunt::test {

namespace fs = std::filesystem;
using ir::Tensor;

namespace {

// ---- bytes of tensors ----

std::vector<std::byte> to_bytes(const Tensor& t) {
  const auto size = static_cast<size_t>(dtype_bytes(t.type.dtype));
  std::vector<std::byte> bytes(static_cast<size_t>(t.elements()) * size);
  if (size == 4) {
    const void* from = t.f.empty() ? static_cast<const void*>(t.i.data()) : t.f.data();
    if (!bytes.empty()) std::memcpy(bytes.data(), from, bytes.size());
    return bytes;
  }
  for (size_t i = 0; i < t.f.size(); ++i) {
    const uint16_t half = t.type.dtype == DType::f16 ? f16_from_f32(t.f[i]) : bf16_from_f32(t.f[i]);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

Tensor from_bytes(const Type& type, std::span<const std::byte> bytes) {
  Tensor t = Tensor::make(type);
  if (dtype_bytes(type.dtype) == 4) {
    void* to = t.f.empty() ? static_cast<void*>(t.i.data()) : t.f.data();
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
    return t;
  }
  t.f = floats_from(bytes, type.dtype);
  return t;
}

/// A literal step that writes `bytes` to `to`: any type, packed into the words of a Constant.
Constant literal(const Arg& to, std::span<const std::byte> bytes) {
  Constant c{to, {}};
  c.values.resize((bytes.size() + 3) / 4);  // a parameter's buffer is padded to 256 bytes
  std::memcpy(static_cast<void*>(c.values.data()), bytes.data(), bytes.size());
  return c;
}

// ---- comparison ----

/// What one output may differ by: `relative` of the element, and `usual` of the root mean square of
/// its row or of the tensor. The second part is for sums whose terms cancel.
struct Tolerance {
  double relative, usual;
};

Tolerance tolerance_of(DType dtype) {
  if (dtype == DType::bf16) return {0x1p-7, 0x1p-8};  // one place, and a rounded attention weight
  if (dtype == DType::f16) return {0x1p-10, 0x1p-10};
  return {1e-5, 2e-5};
}

double mean_square(const float* x, int64_t n) {
  double sum = 0;
  int64_t finite = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (std::isfinite(x[i])) sum += static_cast<double>(x[i]) * x[i], ++finite;
  }
  return finite == 0 ? 0 : sum / static_cast<double>(finite);
}

/// Empty if `got` agrees with `want` wherever that is defined; else what and where the worst is.
std::string difference(const Tensor& want, const Tensor& got, double slack) {
  size_t wrong = 0, worst = 0;
  double worst_excess = 0, worst_allowed = 0;
  for (size_t i = 0; i < want.i.size(); ++i) {
    if (want.i[i] == -1 || want.i[i] == got.i[i]) continue;
    if (wrong++ == 0) worst = i;
  }
  if (wrong > 0) {
    return fmt::format("{} of {} integers differ, first [{}]: {}, expected {}", wrong,
                       want.i.size(), worst, got.i[worst], want.i[worst]);
  }
  if (want.f.empty()) return "";
  const Tolerance tolerance = tolerance_of(want.type.dtype);
  const double all = mean_square(want.f.data(), static_cast<int64_t>(want.f.size()));
  for (int64_t r = 0; r < want.rows(); ++r) {
    const double usual = std::sqrt(std::max(all, mean_square(want.row(r), want.last())));
    for (int64_t c = 0; c < want.last(); ++c) {
      const double x = want.row(r)[c], y = got.row(r)[c];
      if (std::isnan(x) || x == y) continue;
      const double allowed =
          slack * (tolerance.relative * std::abs(x) + tolerance.usual * usual) + 1e-9;
      const double excess = std::isfinite(y) ? std::abs(x - y) / allowed : INFINITY;
      if (excess <= 1) continue;
      ++wrong;
      if (excess <= worst_excess) continue;
      worst = static_cast<size_t>(r * want.last() + c);
      worst_excess = excess;
      worst_allowed = allowed;
    }
  }
  if (wrong == 0) return "";
  return fmt::format("{} of {} differ, worst [{}]: {}, expected {}, error {:.3g}, allowed {:.3g}",
                     wrong, want.f.size(), worst, got.f[worst], want.f[worst],
                     std::abs(got.f[worst] - want.f[worst]), worst_allowed);
}

Type concrete(const Type& type, const DimEnv& dims) {
  Type t{type.dtype, {}};
  for (const Dim& d : type.shape) t.shape.emplace_back(d.evaluate(dims));
  return t;
}

int64_t table_columns(const ir::Module& module) {
  for (const auto& graph : module.graphs) {
    if (const ir::Value* v = graph->find_input("block_tables")) return v->type.last().constant();
  }
  return 1;
}

constexpr int64_t kMaxSequences = 64;  // S of every case, see module_text()

bool has_slots(const ir::Module& module) {
  return std::any_of(module.states.begin(), module.states.end(),
                     [](const auto& s) { return s.value->state_kind() == StateKind::slot; });
}

/// Frequencies as models have them; random numbers would be no rotation that occurs.
void fill_frequencies(Tensor& t) {
  const auto n = static_cast<double>(t.f.size());
  for (size_t i = 0; i < t.f.size(); ++i) {
    t.f[i] = static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / n));
  }
}

}  // namespace

struct CaseRunner::Impl {
  const OpCase& op_case;
  const Target& target;
  std::unique_ptr<ir::Module> module;
  int64_t columns, max_sequences = 1, pages;
  std::vector<std::pair<const ir::Value*, Tensor>> params;  // those that @load does not store

  Impl(const OpCase& c, const std::string& target_name)
      : op_case(c), target(find_target(target_name)), module(ir::parse(c.module)) {
    ir::verify(*module);
    columns = table_columns(*module);
    for (const OpRun& run : c.runs) {
      max_sequences = std::max(max_sequences, static_cast<int64_t>(run.tokens.size()));
    }
    pages = columns * max_sequences;
    ir::Evaluator loaded(*module, {pages, {}});
    loaded.load();
    for (const auto& p : module->params) {
      if (loaded.param(p.value->name) != nullptr) continue;
      Tensor value = random_mir_tensor(p.value->type, p.value->name);
      if (p.value->name.starts_with("inv_freq")) fill_frequencies(value);
      if (c.adjust) c.adjust(p.value->name, -1, value);
      params.emplace_back(p.value.get(), std::move(value));
    }
  }

  codegen::LowerOptions options(const std::string& row) const {
    const int64_t length = columns * module->page_size;
    return {target, {length, kMaxSequences, int64_t{1} << 20, 4096, module->page_size}, {}, row};
  }

  /// Rows that support some op of some graph.
  std::set<std::string> supporting_rows() const {
    std::set<std::string> names;
    const std::vector<codegen::KernelImpl> rows = codegen::all_kernels();
    for (const auto& graph : module->graphs) {
      if (graph->name == "load") continue;
      codegen::Context context{target, *module, *graph, {}, false, module->page_size, 0};
      for (const auto* list : {&module->dims, &graph->dims}) {
        for (const DimDecl& d : *list) context.upper[d.name] = d.max;
      }
      context.decode = graph->name.starts_with("step.decode");
      context.max_model_len = columns * module->page_size;
      for (const auto& op : graph->ops) {
        for (const codegen::KernelImpl& row : rows) {
          if (row.op == op->kind && row.supports(*op, context)) names.emplace(row.name);
        }
      }
    }
    return names;
  }

  /// Adds literal steps for the parameters to the load program.
  void add_params(Plan& plan) const {
    if (params.empty()) return;
    auto load = std::find_if(plan.programs.begin(), plan.programs.end(),
                             [](const Program& p) { return p.graph == "load"; });
    if (load == plan.programs.end()) {
      load = plan.programs.insert(plan.programs.end(), Program{});
      load->name = load->graph = "load";
    }
    for (const auto& [value, tensor] : params) {
      const auto buffer = std::find_if(
          plan.buffers.begin(), plan.buffers.end(),
          [&](const Buffer& b) { return b.arena == Arena::weights && b.name == value->name; });
      SHUNT_CHECK(buffer != plan.buffers.end(), "no buffer of @{}", value->name);
      Step step;
      step.what = literal({.kind = Arg::Kind::buffer,
                           .index = static_cast<int>(buffer - plan.buffers.begin()),
                           .dim = {},
                           .text = {}},
                          to_bytes(tensor));
      step.name = "literal";
      load->steps.push_back(std::move(step));
    }
  }

  void set_params(ir::Evaluator& evaluator) const {
    evaluator.load();
    for (const auto& [value, tensor] : params) evaluator.set_param(value->name, tensor);
  }
};

CaseRunner::CaseRunner(const OpCase& op_case, const std::string& target)
    : impl_(std::make_unique<Impl>(op_case, target)) {}
CaseRunner::~CaseRunner() = default;

std::vector<LoweredCase> CaseRunner::lower_all() const {
  std::vector<LoweredCase> all;
  const auto lower = [&](const std::string& label, const std::string& row) {
    all.push_back({label, codegen::lower(*impl_->module, impl_->options(row))});
    Plan& plan = all.back().lowered.plan;
    plan.activation_dtype = "f32";
    plan.model.vocab_size = 1;
  };
  // What a lowering is made of: two with the same steps are the same.
  const auto steps = [](const Plan& plan) {
    std::string names;
    for (const Program& p : plan.programs) {
      for (const Step& s : p.steps) names += s.name + ";";
    }
    return names;
  };
  lower("selected", "");
  std::set<std::string> seen{steps(all[0].lowered.plan)};
  for (const std::string& row : impl_->supporting_rows()) {
    lower(row, row);
    if (!seen.insert(steps(all.back().lowered.plan)).second) all.pop_back();
  }
  return all;
}

namespace {

/// Runs one lowered case in its session, in step with the evaluator.
class Comparison {
 public:
  Comparison(const OpCase& c, const ir::Module& module, int64_t columns, int64_t max_sequences,
             const std::string& label, Session& session, ir::Evaluator& evaluator)
      : case_(c),
        module_(module),
        columns_(columns),
        max_sequences_(max_sequences),
        label_(label),
        session_(session),
        evaluator_(evaluator) {}

  std::vector<std::string> all() {
    std::vector<int64_t> past(static_cast<size_t>(max_sequences_), 0);
    for (run_ = 0; run_ < static_cast<int>(case_.runs.size()); ++run_) {
      const OpRun& run = case_.runs[static_cast<size_t>(run_)];
      batch_ = {run.tokens, past};
      one(run);
      for (size_t s = 0; s < run.tokens.size(); ++s) past[s] += run.tokens[s];
      if (failures_.size() > 4) break;
    }
    return std::move(failures_);
  }

 private:
  void one(const OpRun& run) {
    int64_t T = 0;
    for (const int64_t n : run.tokens) T += n;
    const auto S = static_cast<int64_t>(run.tokens.size());
    const Program* program =
        run.sample ? nullptr : &session_.step_program(run.decode, T, S, run.rows);
    const ir::Graph& graph = *module_.find_graph(program == nullptr ? "sample" : program->name);
    dims_ = {{"T", T}, {"S", S}, {"R", run.rows}};
    std::map<std::string, Tensor> inputs;
    for (const auto& input : graph.inputs) inputs[input->name] = make_input(*input);
    std::vector<RouteCounts> routes;
    auto wanted = evaluator_.run(graph.name, dims_, inputs,
                                 [&](const ir::Value& v, const Tensor& t) { count(v, t, routes); });
    // A program in a CUDA graph: its first use runs step by step, the second captures, the third
    // finds all counters where a launch must leave them.
    const bool in_graph = program != nullptr && program->decode && !session_.on_cpu();
    const int repeats = session_.on_cpu() ? 2 : 3;
    for (int repeat = 0; repeat < repeats && failures_.empty(); ++repeat) {
      where_ = fmt::format("[{}] {} T={} S={} R={} use {}", label_, graph.name, T, S, run.rows,
                           repeat + 1);
      // A run changes slot states, so that its repetition gives other values.
      if (repeat > 0 && has_slots(module_)) wanted = evaluator_.run(graph.name, dims_, inputs);
      const auto before = fill(graph, inputs);
      if (run.sample) {
        session_.run_sample(run.rows);
      } else {
        session_.run_step(run.decode, T, S, run.rows);
      }
      compare(graph, wanted, inputs, before, in_graph);
      compare_counts(routes);
    }
  }

  Tensor make_input(const ir::Value& input) {
    Tensor t = random_mir_input(input, dims_, batch_, run_);
    if (input.name == "block_tables") {  // the same pages for a sequence in every run
      for (size_t i = 0; i < t.i.size(); ++i) {
        t.i[i] = static_cast<int32_t>(columns_ * max_sequences_ - 1) - static_cast<int32_t>(i);
      }
    }
    if (input.name == "state_slots") {
      for (size_t i = 0; i < t.i.size(); ++i)
        t.i[i] = static_cast<int32_t>(max_sequences_ - 1) - static_cast<int32_t>(i);
    }
    if (case_.adjust) case_.adjust(input.name, run_, t);
    return t;
  }

  /// Writes the inputs, -1 or NaN behind them; returns the outputs' bytes as they are before the
  /// run.
  std::map<std::string, std::vector<std::byte>> fill(const ir::Graph& graph,
                                                     const std::map<std::string, Tensor>& inputs) {
    std::map<std::string, std::vector<std::byte>> before;
    for (const ir::Value* v : graph.outputs) {
      if (session_.on_cpu()) {
        const auto port = session_.input(v->name);
        std::fill(port.begin(), port.end(), std::byte{0xff});
      }
      const auto bytes = session_.output(v->name);
      before[v->name] = {bytes.begin(), bytes.end()};
    }
    for (const auto& [name, tensor] : inputs) {
      const auto port = session_.input(name);
      const auto bytes = to_bytes(tensor);
      std::fill(port.begin(), port.end(), std::byte{0xff});
      std::copy(bytes.begin(), bytes.end(), port.begin());
    }
    return before;
  }

  void compare(const ir::Graph& graph, const std::map<std::string, Tensor>& wanted,
               const std::map<std::string, Tensor>& inputs,
               const std::map<std::string, std::vector<std::byte>>& before, bool in_graph) {
    for (const ir::Value* v : graph.outputs) {
      const Type type = concrete(v->type, dims_);
      const auto bytes = session_.output(v->name);
      const auto used = static_cast<size_t>(type.bytes().constant());
      const std::string what =
          difference(wanted.at(v->name), from_bytes(type, bytes.subspan(0, used)), case_.slack);
      if (!what.empty()) fail(*v, what);
      // Behind the output: its rows up to the bucket's bound are free to be anything in a graph.
      const auto& old = before.at(v->name);
      if (!in_graph && !std::equal(bytes.begin() + static_cast<int64_t>(used), bytes.end(),
                                   old.begin() + static_cast<int64_t>(used))) {
        fail(*v, fmt::format("bytes behind its {} rows were written", wanted.at(v->name).rows()));
      }
    }
    if (!session_.on_cpu()) return;  // a GPU's inputs are a copy
    for (const auto& [name, tensor] : inputs) {
      const auto bytes = to_bytes(tensor);
      const auto port = session_.output(name, static_cast<int64_t>(bytes.size()));
      if (!std::equal(bytes.begin(), bytes.end(), port.begin())) {
        failures_.push_back(
            fmt::format("{} {}: input %{} was written to", case_.name, where_, name));
      }
    }
  }

  /// Adds the routes in a gate's ids. Gates of one loc and as many experts share their counters.
  static void count(const ir::Value& v, const Tensor& ids, std::vector<RouteCounts>& routes) {
    const bool norm = v.def != nullptr && v.def->kind == ir::OpKind::norm_gate;
    if (v.def == nullptr || (!norm && v.def->kind != ir::OpKind::topk_gate)) return;
    if (&v != v.def->results.back().get()) return;
    const ir::Value* logits = norm ? v.def->result(2) : v.def->operand(0);
    const auto experts = static_cast<size_t>(logits->type.last().constant());
    auto at = std::find_if(routes.begin(), routes.end(), [&](const RouteCounts& r) {
      return r.loc == v.def->loc && r.routes.size() == experts;
    });
    if (at == routes.end()) at = routes.insert(at, {v.def->loc, std::vector<int64_t>(experts, 0)});
    for (const auto id : ids.i) {
      if (id >= 0) ++at->routes[static_cast<size_t>(id)];
    }
  }

  /// `routes` of this run on top of what was counted before it.
  void compare_counts(const std::vector<RouteCounts>& routes) {
    const std::vector<RouteCounts> counted = session_.route_counts();
    for (const RouteCounts& now : counted) {
      std::vector<int64_t>& before = counted_[{now.loc, now.routes.size()}];
      before.resize(now.routes.size(), 0);
      std::vector<int64_t> want = before;
      for (const RouteCounts& r : routes) {
        if (r.loc != now.loc || r.routes.size() != now.routes.size()) continue;
        for (size_t e = 0; e < want.size(); ++e) want[e] += r.routes[e];
      }
      if (now.routes != want) {
        failures_.push_back(fmt::format("{} {}: routes to {} experts are counted as {}, not {}",
                                        case_.name, where_, want.size(), fmt::join(now.routes, ","),
                                        fmt::join(want, ",")));
      }
      before = now.routes;
    }
    if (!routes.empty() && counted.empty())
      failures_.push_back(case_.name + ": the plan counts no routes");
  }

  void fail(const ir::Value& v, const std::string& what) {
    const std::string op = v.def == nullptr ? "" : std::string(v.def->info().name);
    failures_.push_back(fmt::format("{} {}: %{} = {} : {}: {}", case_.name, where_, v.name, op,
                                    v.type.to_string(), what));
  }

  const OpCase& case_;
  const ir::Module& module_;
  int64_t columns_, max_sequences_;
  const std::string& label_;
  Session& session_;
  ir::Evaluator& evaluator_;
  MirBatch batch_;
  int run_ = 0;
  DimEnv dims_;
  std::string where_;
  std::vector<std::string> failures_;
  std::map<std::pair<std::string, size_t>, std::vector<int64_t>> counted_;  // loc, experts
};

}  // namespace

std::vector<std::string> CaseRunner::run(LoweredCase c, const fs::path& plan_directory) {
  Impl& impl = *impl_;
  Plan& plan = c.lowered.plan;
  validate(plan);
  impl.add_params(plan);
  SessionOptions options;
  options.kv_pages = impl.pages;
  options.poison = true;
  options.threads = 2;
  Session session(plan, plan_directory, options);
  ir::Evaluator evaluator(*impl.module, {impl.pages, {}, impl.max_sequences});
  impl.set_params(evaluator);
  return Comparison(impl.op_case, *impl.module, impl.columns, impl.max_sequences, c.label, session,
                    evaluator)
      .all();
}

const fs::path& scratch_plan() {
  struct Scratch {
    fs::path path;
    Scratch() {
      std::string name = (fs::temp_directory_path() / "shunt_ops_XXXXXX").string();
      SHUNT_CHECK(mkdtemp(name.data()) != nullptr, "cannot make {}", name);
      path = name;
      fs::create_directories(path / "kernels");
    }
    ~Scratch() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  };
  static const Scratch scratch;
  return scratch.path;
}

size_t compile_kernels(std::vector<LoweredCase*> lowered, const std::string& target) {
  std::vector<JitSource> sources;
  std::vector<Kernel*> kernels;
  for (LoweredCase* c : lowered) {
    for (size_t i = 0; i < c->lowered.sources.size(); ++i) {
      const codegen::KernelSource& source = c->lowered.sources[i];
      if (source.name.empty()) continue;  // a host kernel
      sources.push_back({source.name, source.text()});
      kernels.push_back(&c->lowered.plan.kernels[i]);
    }
  }
  if (sources.empty()) return 0;
  JitOptions options;
  const char* cache = std::getenv("SHUNT_CACHE_DIR");
  options.cache_dir = (cache != nullptr ? fs::path(cache) : scratch_plan() / "cache") / "kernels";
  options.target = target;
  options.headers = codegen::kernel_headers();
  options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const std::vector<JitResult> results = compile_all(sources, options);
  std::set<std::string> digests;
  for (size_t i = 0; i < results.size(); ++i) {
    kernels[i]->digest = results[i].digest;
    const fs::path path = scratch_plan() / "kernels" / (results[i].digest + ".cubin");
    if (!digests.insert(results[i].digest).second || fs::exists(path)) continue;
    std::ofstream(path, std::ios::binary)
        .write(results[i].cubin.data(), static_cast<std::streamsize>(results[i].cubin.size()));
  }
  return digests.size();
}

}  // namespace shunt::test
