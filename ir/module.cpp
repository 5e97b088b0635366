// Construction and mutation of modules. Tested by tests/ir/module_test.cpp.
#include "ir/module.h"

#include <algorithm>
#include <map>
#include <unordered_set>

#include "ir/error.h"

namespace shunt::ir {

Value* Graph::find_input(std::string_view name) const {
  for (const auto& input : inputs) {
    if (input->name == name) return input.get();
  }
  return nullptr;
}

Graph* Module::find_graph(std::string_view name) const {
  for (const auto& graph : graphs) {
    if (graph->name == name) return graph.get();
  }
  return nullptr;
}

Value* Module::find_param(std::string_view name) const {
  const auto it = param_index_.find(name);
  return it == param_index_.end() ? nullptr : it->second;
}

Value* Module::find_state(std::string_view name) const {
  for (const State& state : states) {
    if (state.value->name == name) return state.value.get();
  }
  return nullptr;
}

Value* Module::add_param(std::string name, Type type) {
  SHUNT_CHECK(find_param(name) == nullptr && find_state(name) == nullptr, "@{} exists already",
              name);
  Param& p = params.emplace_back(Param{std::make_unique<Value>()});
  *p.value = {Value::Kind::param, name, std::move(type), nullptr, {}};
  param_index_[std::move(name)] = p.value.get();
  return p.value.get();
}

void Module::remove_param(const Value* value) {
  param_index_.erase(value->name);
  std::erase_if(params, [&](const Param& p) { return p.value.get() == value; });
}

void Module::rename_param(Value* value, std::string name) {
  SHUNT_CHECK(find_param(name) == nullptr && find_state(name) == nullptr, "@{} exists already",
              name);
  param_index_.erase(value->name);
  value->name = name;
  param_index_[std::move(name)] = value;
}

Value* Module::add_state(std::string name, Type row, StateKind kind) {
  SHUNT_CHECK(find_param(name) == nullptr && find_state(name) == nullptr, "@{} exists already",
              name);
  State& s = states.emplace_back(State{std::make_unique<Value>()});
  const auto value_kind =
      kind == StateKind::slot ? Value::Kind::slot_state : Value::Kind::paged_state;
  *s.value = {value_kind, std::move(name), std::move(row), nullptr, {}};
  return s.value.get();
}

Graph& Module::add_graph(std::string name) {
  graphs.push_back(std::make_unique<Graph>());
  graphs.back()->name = std::move(name);
  return *graphs.back();
}

const DimDecl& Module::dim(const Graph& graph, std::string_view name) const {
  for (const auto* list : {&graph.dims, &dims}) {
    for (const DimDecl& d : *list) {
      if (d.name == name) return d;
    }
  }
  internal_error(__FILE__, __LINE__, "dim {} is not declared in module {}", name, this->name);
}

std::string Graph::unique_name(std::string_view wanted) {
  std::string name(wanted);
  for (int& n = next_suffix_[name]; names_.contains(name);)
    name = fmt::format("{}.{}", wanted, ++n);
  names_.insert(name);
  return name;
}

bool Graph::claim_name(const std::string& name) { return names_.insert(name).second; }
void Graph::release_name(const std::string& name) { names_.erase(name); }

Value* GraphBuilder::input(std::string name, Type type) {
  SHUNT_CHECK(graph_.claim_name(name), "input %{} exists already", name);
  auto value = std::make_unique<Value>();
  *value = {Value::Kind::input, std::move(name), std::move(type), nullptr, {}};
  graph_.inputs.push_back(std::move(value));
  return graph_.inputs.back().get();
}

Op* GraphBuilder::op(OpKind kind, std::vector<Value*> operands, Attrs attrs,
                     std::vector<std::string> names) {
  auto op = std::make_unique<Op>();
  op->kind = kind;
  op->attrs = std::holds_alternative<NoAttrs>(attrs) ? default_attrs(kind) : std::move(attrs);
  SHUNT_CHECK(op->attrs.index() == default_attrs(kind).index(), "wrong attributes for {}",
              op_info(kind).name);
  op->operands = std::move(operands);
  op->loc = loc_;
  std::vector<Type> types = op_info(kind).infer(*op);
  for (size_t i = 0; i < types.size(); ++i) {
    auto value = std::make_unique<Value>();
    const std::string wanted = i < names.size() && !names[i].empty() ? names[i] : "v";
    *value = {Value::Kind::result, graph_.unique_name(wanted), std::move(types[i]), op.get(), {}};
    op->results.push_back(std::move(value));
  }
  for (Value* v : op->operands) {
    if (v != nullptr) v->users.push_back(op.get());
  }
  return graph_.ops.insert(at_, std::move(op))->get();
}

Value* GraphBuilder::value(OpKind kind, std::vector<Value*> operands, Attrs attrs,
                           std::string name) {
  return op(kind, std::move(operands), std::move(attrs), {std::move(name)})->result();
}

void set_operand(Op& op, size_t i, Value* value) {
  Value*& slot = op.operands.at(i);
  if (slot != nullptr) slot->users.erase(std::find(slot->users.begin(), slot->users.end(), &op));
  slot = value;
  if (value != nullptr) value->users.push_back(&op);
}

void replace_uses(Graph& graph, Value* from, Value* to) {
  SHUNT_CHECK(from != to, "%{} replaced by itself", from->name);
  for (Op* user : std::vector<Op*>(from->users)) {
    for (size_t i = 0; i < user->operands.size(); ++i) {
      if (user->operands[i] == from) set_operand(*user, i, to);
    }
  }
  std::replace(graph.outputs.begin(), graph.outputs.end(), from, to);
  std::swap(from->name, to->name);  // the meaning keeps its name; `from` is swept
}

void erase(Graph& graph, Graph::Iterator at) {
  Op& op = **at;
  for (const auto& result : op.results) {
    SHUNT_CHECK(result->users.empty(), "%{} is erased but used", result->name);
    graph.release_name(result->name);
  }
  for (size_t i = 0; i < op.operands.size(); ++i) set_operand(op, i, nullptr);
  graph.ops.erase(at);
}

Graph::Iterator find(Graph& graph, const Op* op) {
  return std::find_if(graph.ops.begin(), graph.ops.end(), [&](auto& o) { return o.get() == op; });
}

bool is_pinned(const Graph& graph, const Value* value) {
  if (value->name.starts_with("hidden.") || value->name.starts_with("router_logits.")) return true;
  return std::find(graph.outputs.begin(), graph.outputs.end(), value) != graph.outputs.end();
}

int sweep(Graph& graph) {
  int removed = 0;
  std::unordered_set<const Value*> outputs(graph.outputs.begin(), graph.outputs.end());
  for (auto it = graph.ops.end(); it != graph.ops.begin();) {
    --it;
    const Op& op = **it;
    const bool live =
        op.info().has_effect || std::any_of(op.results.begin(), op.results.end(), [&](auto& r) {
          return !r->users.empty() || outputs.contains(r.get());
        });
    if (live) continue;
    auto dead = it++;
    erase(graph, dead);
    ++removed;
  }
  return removed;
}

int sweep(Module& module) {
  int removed = 0;
  for (auto& graph : module.graphs) removed += sweep(*graph);
  // A parameter that only @load writes is dead; so is the store, and then what fed it.
  Graph* load = module.find_graph("load");
  std::vector<Value*> dead;
  for (const Param& p : module.params) {
    const auto& users = p.value->users;
    if (std::all_of(users.begin(), users.end(), [](Op* op) { return op->kind == OpKind::store; })) {
      dead.push_back(p.value.get());
    }
  }
  if (!dead.empty() && load != nullptr) {
    const std::unordered_set<Value*> gone(dead.begin(), dead.end());
    for (auto it = load->ops.begin(); it != load->ops.end();) {
      auto at = it++;
      if ((*at)->kind == OpKind::store && gone.contains((*at)->operand(1))) erase(*load, at);
    }
    removed += sweep(*load);
  }
  for (Value* value : dead) {
    if (!value->users.empty()) continue;
    module.remove_param(value);
    ++removed;
  }
  std::erase_if(module.states,
                [&](const State& s) { return s.value->users.empty() && ++removed > 0; });
  return removed;
}

namespace {

/// Copies `from` into `to`; `shared` maps values outside the graph (params, states) to their
/// copies.
void clone_into(const Graph& from, Graph& to, std::map<const Value*, Value*> map) {
  to.dims = from.dims;
  for (const auto& input : from.inputs) {
    to.inputs.push_back(
        std::make_unique<Value>(Value{input->kind, input->name, input->type, nullptr, {}}));
    to.claim_name(input->name);
    map[input.get()] = to.inputs.back().get();
  }
  const auto mapped = [&](Value* v) {
    const auto it = map.find(v);
    return it == map.end() ? v : it->second;
  };
  for (const auto& op : from.ops) {
    auto copy = std::make_unique<Op>();
    copy->kind = op->kind;
    copy->attrs = op->attrs;
    copy->loc = op->loc;
    for (Value* v : op->operands) {
      copy->operands.push_back(v == nullptr ? nullptr : mapped(v));
      if (v != nullptr) copy->operands.back()->users.push_back(copy.get());
    }
    for (const auto& r : op->results) {
      copy->results.push_back(
          std::make_unique<Value>(Value{r->kind, r->name, r->type, copy.get(), {}}));
      to.claim_name(r->name);
      map[r.get()] = copy->results.back().get();
    }
    to.ops.push_back(std::move(copy));
  }
  for (Value* v : from.outputs) to.outputs.push_back(mapped(v));
}

}  // namespace

std::unique_ptr<Graph> clone(const Graph& graph, std::string name) {
  auto copy = std::make_unique<Graph>();
  copy->name = std::move(name);
  clone_into(graph, *copy, {});
  return copy;
}

std::unique_ptr<Module> clone(const Module& module) {
  auto copy = std::make_unique<Module>();
  copy->name = module.name;
  copy->stage = module.stage;
  copy->dims = module.dims;
  copy->page_size = module.page_size;
  copy->mesh = module.mesh;
  std::map<const Value*, Value*> map;
  for (const Param& p : module.params)
    map[p.value.get()] = copy->add_param(p.value->name, p.value->type);
  for (const State& s : module.states)
    map[s.value.get()] = copy->add_state(s.value->name, s.value->type, s.value->state_kind());
  for (const auto& graph : module.graphs) clone_into(*graph, copy->add_graph(graph->name), map);
  return copy;
}

}  // namespace shunt::ir
