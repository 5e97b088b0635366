// Module -> Plan. Parameters and ports get fixed places; then each graph is lowered by itself:
// choose a row per op, let it emit steps over buffers without offsets, then plan the workspace from
// the buffers' lifetimes. Entry point lower(); tested by tests/kernels and by every model test.
#include "codegen/lower.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "codegen/lower_load.h"
#include "codegen/memory_plan.h"
#include "ir/error.h"

namespace shunt::codegen {

Arg StepBuilder::i32(const DimExpr& value) {
  return {.kind = Arg::Kind::i32, .dim = value, .text = {}};
}
Arg StepBuilder::i64(const DimExpr& value) {
  return {.kind = Arg::Kind::i64, .dim = value, .text = {}};
}
Arg StepBuilder::f32(double value) {
  return {.kind = Arg::Kind::f32,
          .dim = {},
          .number = static_cast<double>(static_cast<float>(value)),
          .text = {}};
}
Arg StepBuilder::expr(const std::string& text) {
  return {.kind = Arg::Kind::expr, .dim = {}, .text = text};
}

namespace {

using ir::OpKind;
using ValueArgs = std::unordered_map<const ir::Value*, Arg>;

Arg buffer_arg(int index) {
  return {.kind = Arg::Kind::buffer, .index = index, .dim = {}, .text = {}};
}

/// What all programs of one plan share while they are lowered.
struct PlanState {
  const ir::Module& module;
  const LowerOptions& options;
  Lowered out;
  ValueArgs fixed;                              // parameters, states
  std::map<std::string, int> kernel_of_source;  // source text (or host kernel name) -> index
  std::map<std::pair<std::string, int64_t>, int> counters = {};  // loc, experts -> buffer
  std::map<std::string, int, std::less<>> peer_roles = {};  // role -> buffer
  std::map<int, MeshAxis> peer_axes = {};                   // buffer -> what its tables run along

  int kernel(const KernelSource& source) {
    const auto [it, added] =
        kernel_of_source.emplace(source.text(), static_cast<int>(out.sources.size()));
    if (added) {
      out.plan.kernels.push_back({source.name, ""});
      out.sources.push_back(source);
    }
    return it->second;
  }
  int host_kernel(std::string_view name) {
    const auto [it, added] =
        kernel_of_source.emplace("host:" + std::string(name), static_cast<int>(out.sources.size()));
    if (added) {
      out.plan.kernels.push_back({std::string(name), ""});
      out.sources.emplace_back();
    }
    return it->second;
  }
  int add_buffer(std::string name, Arena arena, Type type, int64_t bytes) {
    out.plan.buffers.push_back({std::move(name), arena, 0, bytes, std::move(type)});
    return static_cast<int>(out.plan.buffers.size()) - 1;
  }
  /// Puts a buffer behind the last one of its arena.
  void append(int buffer, int64_t& arena_bytes) {
    out.plan.buffers[buffer].offset = arena_bytes;
    arena_bytes = align_up(arena_bytes + out.plan.buffers[buffer].bytes);
  }
};

/// Lowers one graph. Also the StepBuilder that rows write to.
class ProgramLowering : public StepBuilder {
 public:
  ProgramLowering(PlanState& state, const ir::Graph& graph)
      : state_(state),
        graph_(graph),
        context_{state.options.target,
                 state.module,
                 graph,
                 {},
                 false,
                 state.module.page_size,
                 state.options.limits.max_model_len,
                 state.options.peer_memory} {
    for (const auto* list : {&state.module.dims, &graph.dims}) {
      for (const DimDecl& d : *list) context_.upper[d.name] = d.max;
    }
    context_.decode = graph.name.starts_with("step.decode");
    program_.name = graph.name;
    program_.graph = graph.name.substr(0, graph.name.find('.'));
    program_.decode = context_.decode;
    for (const DimDecl& d : state.module.dims)
      program_.dims.push_back(state.module.dim(graph, d.name));
    values_ = state.fixed;
  }

  void bind_port(const ir::Value* value, int buffer) { values_[value] = buffer_arg(buffer); }

  void lower_load() {
    for (const auto& op : graph_.ops) {
      if (op->kind != OpKind::store) continue;
      const Arg to = state_.fixed.at(op->operand(1));
      const ir::Value& value = *op->operand(0);
      // What ranks hold parts of is read by each for itself.
      const bool parts = differs_by_rank(value);
      for (int rank = 0; rank < (parts ? state_.module.mesh.size() : 1); ++rank) {
        const size_t first = program_.steps.size();
        auto steps = codegen::lower_store(
            value, to, state_.options, state_.module.mesh, rank,
            [&](const ir::Op& dummy) { emit_dummy(dummy, op->operand(1)->type, to); });
        std::move(steps.begin(), steps.end(), std::back_inserter(program_.steps));
        for (size_t i = first; parts && i < program_.steps.size(); ++i)
          program_.steps[i].rank = rank;
      }
    }
    finish();
  }

  void lower_ops() {
    for (const auto& op : graph_.ops) emit(*op);
    finish();
  }

  // ---- StepBuilder ----
  const Context& context() const override { return context_; }

  Arg arg(const ir::Value* value) override {
    if (value == nullptr) return {};
    const auto it = values_.find(value);
    SHUNT_CHECK(it != values_.end(), "%{} has no buffer", value->name);
    return it->second;
  }

  Arg scratch(int64_t bytes) override {
    const int buffer = new_workspace(fmt::format("{}.scratch", op_->info().name),
                                     {DType::u8, {Dim(bytes)}}, bytes);
    return buffer_arg(buffer);
  }

  Arg dim_ptr(std::string_view dim) override {
    const auto& dims = state_.module.dims;
    const auto it = std::find_if(dims.begin(), dims.end(), [&](auto& d) { return d.name == dim; });
    SHUNT_CHECK(it != dims.end(), "no dim {}", dim);
    return {.kind = Arg::Kind::dim_ptr,
            .index = static_cast<int>(it - dims.begin()),
            .dim = {},
            .text = {}};
  }

  Arg route_counts(int64_t experts) override {
    const auto [it, added] = state_.counters.emplace(std::pair{op_->loc, experts}, -1);
    if (added) {
      const Type type{DType::i64, {Dim(experts)}};
      it->second = state_.add_buffer(op_->loc, Arena::counters, type, type.bytes().constant());
      state_.append(it->second, state_.out.plan.counters_bytes);
    }
    return buffer_arg(it->second);
  }

  Arg rank_value(const std::vector<int64_t>& by_rank) override {
    auto& tables = state_.out.plan.rank_tables;
    auto it = std::find(tables.begin(), tables.end(), by_rank);
    if (it == tables.end()) it = tables.insert(it, by_rank);
    return {.kind = Arg::Kind::rank,
            .index = static_cast<int>(it - tables.begin()),
            .dim = {},
            .text = {}};
  }

  Arg peer_buffer(std::string_view role, int64_t bytes) override {
    SHUNT_CHECK(context_.peer_memory, "'{}' in a plan without peer memory", role);
    auto it = state_.peer_roles.find(role);
    if (it == state_.peer_roles.end()) {
      const int buffer = state_.add_buffer(std::string(role), Arena::peer, {DType::u8, {}}, 0);
      it = state_.peer_roles.emplace(role, buffer).first;
    }
    Buffer& b = state_.out.plan.buffers[it->second];
    b.bytes = std::max(b.bytes, bytes);
    b.type.shape = {Dim(b.bytes)};
    return buffer_arg(it->second);
  }

  Arg peers(MeshAxis over, const Arg& buffer) override {
    const auto [axis, added] = state_.peer_axes.emplace(buffer.index, over);
    SHUNT_CHECK(axis->second == over, "peer buffer {} along {} and {}", buffer.index,
                axis_name(axis->second), axis_name(over));
    return {.kind = Arg::Kind::peers, .index = buffer.index, .dim = {}, .text = {}, .over = over};
  }

  void launch(const KernelSource& kernel, LaunchSpec spec) override {
    Launch l;
    l.kernel = state_.kernel(kernel);
    l.grid = spec.grid;
    l.threads = spec.threads;
    l.smem = spec.smem;
    l.dependent = spec.dependent;
    l.args = std::move(spec.args);
    add(std::move(l));
  }

  void host_call(std::string_view host_kernel, std::vector<Arg> args) override {
    Launch l;
    l.kernel = state_.host_kernel(host_kernel);
    l.args = std::move(args);
    add(std::move(l));
  }

  void matmul(Matmul m) override { add(std::move(m)); }
  void copy(Copy c) override { add(std::move(c)); }
  void fill(Fill f) override { add(std::move(f)); }
  void collective(Collective c) override { add(std::move(c)); }

 private:
  int new_workspace(std::string name, Type type, int64_t bytes) {
    const int buffer = state_.add_buffer(std::move(name), Arena::workspace, std::move(type), bytes);
    first_use_[buffer] = static_cast<int>(program_.steps.size());
    return buffer;
  }

  void emit(const ir::Op& op) {
    if (op.kind == OpKind::reshape) return emit_reshape(op);
    op_ = &op;
    impl_ = &select(op, context_, state_.options.only_row);
    results_.clear();
    for (const auto& r : op.results) {
      if (!values_.contains(r.get())) {
        values_[r.get()] =
            buffer_arg(new_workspace(r->name, r->type, context_.bound(r->type.bytes())));
      }
      results_.push_back(values_.at(r.get()).index);
    }
    const size_t before = program_.steps.size();
    impl_->emit(op, *this);
    SHUNT_CHECK(program_.steps.size() > before, "row {} emitted nothing", impl_->name);
    // The op's cost belongs to its first step; its results are complete after its last.
    const ir::Cost cost = op.info().cost(op);
    program_.steps[before].bytes = DimExpr(cost.bytes);
    program_.steps[before].flops = DimExpr(cost.flops);
    program_.steps.back().writes = results_;
  }

  /// The same bytes under another shape; copied only where they must end up in a port.
  void emit_reshape(const ir::Op& op) {
    const Arg from = arg(op.operand(0));
    const auto [to, added] = values_.emplace(op.result(), from);
    if (added) return;
    Step step;
    step.what = Copy{from, to->second, DimExpr(op.result()->type.bytes())};
    step.name = "reshape.copy";
    step.loc = op.loc;
    step.bytes = DimExpr(op.result()->type.bytes() * 2);
    step.writes = {to->second.index};
    program_.steps.push_back(std::move(step));
  }

  void emit_dummy(const ir::Op& dummy, const Type& type, const Arg& to) {
    ir::Graph graph;
    auto attrs = dummy.as<ir::DummyAttrs>();
    attrs.shape = type.shape;
    ir::GraphBuilder builder(graph);
    builder.set_loc(dummy.loc);
    const ir::Op* op = builder.op(OpKind::dummy, {}, attrs);
    values_[op->result()] = to;
    emit(*op);
    values_.erase(op->result());
  }

  void add(StepKind what) {
    Step step;
    step.what = std::move(what);
    step.name = impl_->name;
    step.loc = op_->loc;
    program_.steps.push_back(std::move(step));
  }

  /// The workspace buffers a step touches.
  static void for_each_buffer(const Step& step, const std::function<void(int)>& f) {
    const auto arg = [&](const Arg& a) {
      if (a.kind == Arg::Kind::buffer) f(a.index);
    };
    if (const auto* l = std::get_if<Launch>(&step.what)) {
      std::for_each(l->args.begin(), l->args.end(), arg);
    } else if (const auto* m = std::get_if<Matmul>(&step.what)) {
      for (const Arg* a : {&m->x, &m->w, &m->c, &m->bias, &m->d, &m->workspace}) arg(*a);
    } else if (const auto* c = std::get_if<Copy>(&step.what)) {
      arg(c->from);
      arg(c->to);
    } else if (const auto* fill = std::get_if<Fill>(&step.what)) {
      arg(fill->to);
    } else if (const auto* collective = std::get_if<Collective>(&step.what)) {
      arg(collective->from);
      arg(collective->to);
    }
  }

  void finish() {
    std::map<int, Lifetime> lives;
    for (const auto& [buffer, first] : first_use_) {
      lives[buffer] = {state_.out.plan.buffers[buffer].bytes, first, first, 0};
    }
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      for_each_buffer(program_.steps[i], [&](int buffer) {
        if (const auto it = lives.find(buffer); it != lives.end())
          it->second.last = static_cast<int>(i);
      });
    }
    std::vector<Lifetime> packed;
    for (const auto& [buffer, life] : lives) packed.push_back(life);
    program_.workspace_bytes = plan_memory(packed);
    check_memory(packed, program_.workspace_bytes);
    size_t i = 0;
    for (const auto& [buffer, life] : lives)
      state_.out.plan.buffers[buffer].offset = packed[i++].offset;
    Plan& plan = state_.out.plan;
    plan.workspace_bytes = std::max(plan.workspace_bytes, program_.workspace_bytes);
    plan.programs.push_back(std::move(program_));
  }

  PlanState& state_;
  const ir::Graph& graph_;
  Context context_;
  Program program_;
  ValueArgs values_;
  std::map<int, int> first_use_;  // workspace buffer -> the step that makes it
  const ir::Op* op_ = nullptr;
  const KernelImpl* impl_ = nullptr;
  std::vector<int> results_;
};

void place_params_and_states(PlanState& state) {
  Plan& plan = state.out.plan;
  for (const ir::Param& p : state.module.params) {
    const Type& type = p.value->type;
    const int buffer =
        state.add_buffer(p.value->name, Arena::weights, type, type.bytes().constant());
    state.append(buffer, plan.weights_bytes);
    state.fixed[p.value.get()] = buffer_arg(buffer);
  }
  for (const ir::State& s : state.module.states) {
    state.fixed[s.value.get()] = {.kind = Arg::Kind::state,
                                  .index = static_cast<int>(plan.states.size()),
                                  .dim = {},
                                  .text = {}};
    plan.states.push_back({s.value->name, s.value->type, s.value->state_kind()});
  }
}

/// Ports are shared by role over all graphs. Inputs first, so that one copy brings them all; the
/// logits last, since they are large and stay on the device. @sample's inputs "logits" and outputs
/// are ports like the others.
void place_ports(PlanState& state) {
  Plan& plan = state.out.plan;
  const auto bytes_of = [&](const ir::Graph& graph, const ir::Value& v) {
    DimEnv upper;
    for (const auto* list : {&state.module.dims, &graph.dims}) {
      for (const DimDecl& d : *list) upper[d.name] = d.max;
    }
    return v.type.bytes().evaluate(upper);
  };
  const auto port = [&](const ir::Graph& graph, const ir::Value& v, bool output) {
    const int known = plan.find_port(v.name);
    if (known >= 0) {
      Port& p = plan.ports[known];
      p.output = p.output || output;
      Buffer& b = plan.buffers[p.buffer];
      b.bytes = std::max(b.bytes, bytes_of(graph, v));
      return;
    }
    plan.ports.push_back(
        {v.name, state.add_buffer(v.name, Arena::io, v.type, bytes_of(graph, v)), output});
  };
  for (const auto& graph : state.module.graphs) {
    if (graph->name == "load") continue;
    for (const auto& input : graph->inputs) port(*graph, *input, false);
    for (const ir::Value* v : graph->outputs) port(*graph, *v, true);
  }
  std::stable_sort(plan.ports.begin(), plan.ports.end(), [&](const Port& a, const Port& b) {
    const auto rank = [&](const Port& p) {
      return p.output ? plan.buffers[p.buffer].bytes : int64_t{-1};
    };
    return rank(a) < rank(b);
  });
  for (const Port& p : plan.ports) state.append(p.buffer, plan.io_bytes);
}

/// When all programs have said how much they need: then no region moves any more.
void place_peer_buffers(PlanState& state) {
  for (const auto& [role, buffer] : state.peer_roles)
    state.append(buffer, state.out.plan.peer_bytes);
}

}  // namespace

Lowered lower(const ir::Module& module, const LowerOptions& options) {
  PlanState state{module, options, {}, {}, {}, {}};
  Plan& plan = state.out.plan;
  plan.target = options.target.name;
  plan.limits = options.limits;
  plan.limits.page_size = module.page_size;
  plan.dims = module.dims;
  plan.mesh = module.mesh;
  place_params_and_states(state);
  place_ports(state);
  for (const auto& graph : module.graphs) {
    ProgramLowering lowering(state, *graph);
    if (graph->name == "load") {
      lowering.lower_load();
      continue;
    }
    for (const auto& input : graph->inputs) {
      lowering.bind_port(input.get(), plan.ports[plan.find_port(input->name)].buffer);
    }
    for (const ir::Value* v : graph->outputs) {
      lowering.bind_port(v, plan.ports[plan.find_port(v->name)].buffer);
    }
    lowering.lower_ops();
  }
  place_peer_buffers(state);
  return std::move(state.out);
}

}  // namespace shunt::codegen
