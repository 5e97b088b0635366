// ir::Module: straight-line SSA graphs over parameters and states. logical, placed and lowered are
// stages of this one type. Text form: ir/text.h; rules per stage: ir/verify.h.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "ir/ops.h"

namespace shunt::ir {

struct Op;

enum class Stage { logical, placed, lowered };

/// A value: a graph input, an op's result, a parameter ("@l0.norm"), or a paged ("@l0.k") or slot
/// ("@l0.conv") state.
struct Value {
  enum class Kind : uint8_t { input, result, param, paged_state, slot_state };
  Kind kind = Kind::result;
  std::string name;  // without the sigil
  Type type;
  Op* def = nullptr;       // result: the op that makes it
  std::vector<Op*> users;  // one entry a use, in no particular order

  bool is_param() const { return kind == Kind::param; }
  bool is_state() const { return kind == Kind::paged_state || kind == Kind::slot_state; }
  /// Of a state.
  StateKind state_kind() const {
    return kind == Kind::slot_state ? StateKind::slot : StateKind::paged;
  }
};

struct Op {
  OpKind kind;
  Attrs attrs;
  std::vector<Value*> operands;  // nullptr: absent, printed as `none`
  std::vector<std::unique_ptr<Value>> results;
  std::string loc;  // "model.layers.0.mlp", kept by every pass

  template <class A>
  const A& as() const {
    return std::get<A>(attrs);
  }
  template <class A>
  A& as() {
    return std::get<A>(attrs);
  }
  Value* operand(size_t i) const { return i < operands.size() ? operands[i] : nullptr; }
  Value* result(size_t i = 0) const { return results[i].get(); }
  const OpInfo& info() const { return op_info(kind); }
};

struct Graph {
  std::string name;  // "load", "step", "sample"; after regime cloning "step.decode.8", ...
  std::vector<std::unique_ptr<Value>> inputs;  // by role: "tokens", "positions", ... (docs/ir.md)
  std::list<std::unique_ptr<Op>> ops;  // program order: a value is defined before it is used
  std::vector<Value*> outputs;
  std::vector<DimDecl>
      dims;  // overrides of the module's ranges for this graph (a regime's range of T)

  using Iterator = std::list<std::unique_ptr<Op>>::iterator;
  Value* find_input(std::string_view name) const;

  /// A name no value of this graph has: `wanted`, else `wanted.1`, ...; it is taken from now on.
  std::string unique_name(std::string_view wanted);
  /// Takes exactly `name`; false if it is taken.
  bool claim_name(const std::string& name);
  void release_name(const std::string& name);

 private:
  std::unordered_set<std::string> names_;
  std::unordered_map<std::string, int> next_suffix_;
};

/// A parameter (weights; written by @load, read by the others).
struct Param {
  std::unique_ptr<Value> value;
};

/// Memory that lives across steps; `value->type` is one row. Paged: a row ([kv_heads, head_dim]) a
/// token. Slot: a row a sequence (recurrent layers), which counts as zero where a sequence begins;
/// rows are whole and of one size, so that a prefix's state is copied by copying its row.
struct State {
  std::unique_ptr<Value> value;
};

struct Module {
  std::string name;
  Stage stage = Stage::logical;
  std::vector<DimDecl> dims;
  std::vector<Param> params;
  std::vector<State> states;
  std::vector<std::unique_ptr<Graph>> graphs;
  int64_t page_size = 64;  // rows of a page of paged state
  Mesh mesh;               // of the ranks; types are one rank's, the largest where ranks differ

  Graph* find_graph(std::string_view name) const;
  Value* find_param(std::string_view name) const;
  Value* find_state(std::string_view name) const;
  Value* add_param(std::string name, Type type);
  Value* add_state(std::string name, Type row, StateKind kind = StateKind::paged);
  Graph& add_graph(std::string name);
  /// Range of a dim in `graph` (the graph's own if it overrides it). Throws InternalError if
  /// undeclared.
  const DimDecl& dim(const Graph& graph, std::string_view name) const;
  void remove_param(const Value* value);
  /// `name` must be free.
  void rename_param(Value* value, std::string name);

 private:
  std::map<std::string, Value*, std::less<>> param_index_;
};

/// Appends or inserts ops; infers result types. Result names are made unique in the graph.
class GraphBuilder {
 public:
  explicit GraphBuilder(Graph& graph) : graph_(graph), at_(graph.ops.end()) {}
  GraphBuilder(Graph& graph, Graph::Iterator before) : graph_(graph), at_(before) {}

  Value* input(std::string name, Type type);
  /// `names` may be shorter than the results: the rest get names of their own.
  Op* op(OpKind kind, std::vector<Value*> operands, Attrs attrs = NoAttrs{},
         std::vector<std::string> names = {});
  /// The first result of op().
  Value* value(OpKind kind, std::vector<Value*> operands, Attrs attrs = NoAttrs{},
               std::string name = {});
  void set_loc(std::string loc) { loc_ = std::move(loc); }
  const std::string& loc() const { return loc_; }

 private:
  Graph& graph_;
  Graph::Iterator at_;
  std::string loc_;
};

/// Makes every user (and graph output) of `from` use `to`, and moves the name. Leaves `from` for
/// the sweep.
void replace_uses(Graph& graph, Value* from, Value* to);
/// Sets operand `i`, keeping user lists right.
void set_operand(Op& op, size_t i, Value* value);
/// Removes ops without effect whose results nobody uses; returns how many.
int sweep(Graph& graph);
/// Removes parameters and states that no graph uses, with the ops of @load that only feed them.
int sweep(Module& module);
/// Erases one op; its results must be unused.
void erase(Graph& graph, Graph::Iterator op);
/// The op's position. Linear in the graph.
Graph::Iterator find(Graph& graph, const Op* op);
/// A deep copy of a graph (params and states stay shared), e.g. one clone a regime.
std::unique_ptr<Graph> clone(const Graph& graph, std::string name);
std::unique_ptr<Module> clone(const Module& module);
/// True if `value` must keep existing: a graph output or a named probe ("hidden.3") that `verify`
/// compares.
bool is_pinned(const Graph& graph, const Value* value);

/// Checks structure, then every op's constraints and that inferred types equal the stored ones.
/// Throws UserError.
void verify(const Module& module);

/// Text form, see docs/ir.md. parse() throws UserError "line 4: ..."; print(parse(t)) == t for
/// printed text.
std::string print(const Module& module);
std::string print(const Op& op);
std::unique_ptr<Module> parse(std::string_view text);

/// Attributes as "{a = 1, b = \"x\"}", fields equal to their default left out; empty if all are.
std::string print_attrs(const Attrs& attrs);

}  // namespace shunt::ir
