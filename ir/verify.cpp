// verify(): structure first, then each op's own constraints. Tested by tests/ir/module_test.cpp and
// the .mir cases.
#include <algorithm>
#include <set>
#include <unordered_set>

#include "ir/error.h"
#include "ir/module.h"

namespace shunt::ir {

namespace {

void verify_dims(const Module& module, const Graph& graph, const Type& type,
                 const std::string& name) {
  for (const Dim& d : type.shape) {
    for (const auto& [symbol, factor] : d.terms()) {
      const auto declared = [&, s = symbol](const std::vector<DimDecl>& list) {
        return std::any_of(list.begin(), list.end(), [&](auto& decl) { return decl.name == s; });
      };
      if (!declared(module.dims) && !declared(graph.dims)) {
        user_error("graph @{}: {} : {} uses the dim {}, which is not declared", graph.name, name,
                   type.to_string(), symbol);
      }
    }
  }
}

/// V7: what names a group of ranks fits the mesh.
void verify_mesh(const Module& module, const Graph& graph, const Op& op) {
  const auto check = [&](MeshAxis over, size_t ranks) {
    const auto size = static_cast<size_t>(module.mesh.size(over));
    if (ranks == size) return;
    user_error("graph @{} (V7): {} is for {} ranks along {}, the mesh ({}) has {}", graph.name,
               op.info().name, ranks, axis_name(over), module.mesh.to_string(), size);
  };
  if (const auto* a = std::get_if<ShardAttrs>(&op.attrs)) check(a->over, a->runs.size());
  if (const auto* a = std::get_if<ReduceAttrs>(&op.attrs))
    check(a->over, static_cast<size_t>(a->ranks));
  if (const auto* a = std::get_if<GatherAttrs>(&op.attrs))
    check(a->over, static_cast<size_t>(a->ranks));
  if (const auto* a = std::get_if<DispatchAttrs>(&op.attrs))
    check(a->over, static_cast<size_t>(a->ranks));
  if (const auto* a = std::get_if<EmbeddingAttrs>(&op.attrs); a && !a->begins.empty())
    check(a->over, a->begins.size());
}

/// V1: names are unique. V2: a value is defined before it is used. V3: sizes are declared. V4: user
/// lists are right. V5: the stored types are what infer_ gives. V6: only @load stores parameters,
/// each at most once. V7: ops that name ranks fit the mesh.
void verify_graph(const Module& module, const Graph& graph, std::set<const Value*>& stored) {
  std::unordered_set<const Value*> defined;
  std::unordered_set<std::string> names;
  const auto define = [&](const Value& v) {
    if (!names.insert(v.name).second)
      user_error("graph @{} (V1): two values %{}", graph.name, v.name);
    defined.insert(&v);
    verify_dims(module, graph, v.type, "%" + v.name);
  };
  for (const auto& input : graph.inputs) define(*input);
  for (const auto& op : graph.ops) {
    for (const Value* v : op->operands) {
      if (v == nullptr || v->is_param() || v->is_state()) continue;
      if (!defined.contains(v)) {
        user_error("graph @{} (V2): {} uses %{} before it is defined", graph.name, op->info().name,
                   v->name);
      }
    }
    for (const Value* v : op->operands) {
      SHUNT_CHECK(v == nullptr || std::count(v->users.begin(), v->users.end(), op.get()) ==
                                      std::count(op->operands.begin(), op->operands.end(), v),
                  "graph @{} (V4): users of {} do not match {}", graph.name, v->name, print(*op));
    }
    if (op->kind == OpKind::store) {
      if (graph.name != "load")
        user_error("graph @{} (V6): only @load stores parameters", graph.name);
      if (!stored.insert(op->operand(1)).second) {
        user_error("graph @load (V6): @{} is stored twice", op->operand(1)->name);
      }
    }
    verify_mesh(module, graph, *op);
    const std::vector<Type> types = op->info().infer(*op);
    SHUNT_CHECK(types.size() == op->results.size(), "{} has {} results, not {}", op->info().name,
                op->results.size(), types.size());
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] != op->result(i)->type) {
        user_error("graph @{} (V5): %{} is {}, but {} gives {}", graph.name, op->result(i)->name,
                   op->result(i)->type.to_string(), op->info().name, types[i].to_string());
      }
      define(*op->result(i));
    }
  }
  for (const Value* v : graph.outputs) {
    if (v == nullptr || !defined.contains(v))
      user_error("graph @{} (V2): a returned value is not defined", graph.name);
  }
}

}  // namespace

void verify(const Module& module) {
  validate(module.mesh);
  std::set<const Value*> stored;
  std::set<std::string> names;
  for (const auto& graph : module.graphs) {
    if (!names.insert(graph->name).second) user_error("two graphs @{}", graph->name);
    verify_graph(module, *graph, stored);
  }
}

}  // namespace shunt::ir
