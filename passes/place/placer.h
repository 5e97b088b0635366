// The forward walk of `place`: every value of @step gets a placement, every op works on one rank's
// part, and where an op wants a value otherwise than it is, a conversion stands before it. Internal
// to passes/place*.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "ir/expert_map.h"
#include "passes/pass.h"
#include "passes/place/wish.h"

namespace shunt::passes {

/// Where the elements of a value are.
struct Placement {
  enum class Kind {
    whole,    // every rank (of its dp group) has all of it
    sharded,  // each has its part of `axis`
    partial,  // the sum over `over` is the value
  };
  Kind kind = Kind::whole;
  int64_t axis = 0;
  Layout layout;
  MeshAxis over = MeshAxis::tp;
  // Rows are routes of the gathered tokens, and only those that this rank's experts take are
  // defined. Of such a value `sharded` and `partial` are along etp.
  bool routes = false;
  bool operator==(const Placement&) const = default;
};

/// How the experts of one MoE layer are spread.
struct ExpertPlacement {
  Layout experts;  // of the experts' axis, along ep
  int64_t replicas = 1;
  std::vector<double> table;  // of local_routes
};

class Placer {
 public:
  /// Keeps a reference to the options.
  Placer(ir::Module& module, const PassOptions& options);
  /// Rewrites @step and @load for the mesh.
  void run();

 private:
  using Iterator = ir::Graph::Iterator;

  // ---- placer.cpp: the walk ----
  void visit(ir::Op& op);
  void keep_whole(ir::Op& op);
  void keep_regions_whole();
  void finish_pinned(ir::Value& value);
  void place_states();
  void gather_results();

  // ---- placer_rules.cpp: one function an op ----
  void place_linear(ir::Op& op);
  void place_pointwise(ir::Op& op);
  void place_reshape(ir::Op& op);
  void place_along(ir::Op& op);
  void place_embedding(ir::Op& op);
  void place_head_linear(ir::Op& op);
  void place_kv_append(ir::Op& op);
  void place_attention(ir::Op& op);
  bool place_partial_pointwise(ir::Op& op);

  // ---- placer_experts.cpp ----
  void place_routed_linear(ir::Op& op);
  void place_combine_routes(ir::Op& op);
  const ExpertPlacement& experts_of(const ir::Op& op, int64_t experts);
  ir::Value* local_ids(ir::Op& op, size_t operand, int64_t experts);
  ir::Value* gathered(ir::Value* value);
  ir::Value* expert_table(const ir::Op& op, const ir::Value& ids, int64_t experts);
  bool one_exchange_serves(const ir::Value* x, const ir::Value* ids) const;
  const ir::Op* dispatched(ir::Op& op, int64_t experts);

  // ---- placer_values.cpp: conversions ----
  const Placement& placement(const ir::Value* value) const;
  /// `value` placed as `wanted`, by ops before the current one.
  ir::Value* converted(ir::Value* value, const Placement& wanted);
  void want(ir::Op& op, size_t operand, const Placement& wanted);
  void want_whole(ir::Op& op, size_t operand) { want(op, operand, {}); }
  /// All of the value; of rows of routes, of those.
  Placement whole(const ir::Value& value) const;
  /// Result types from the operands as they are now.
  void settle(ir::Op& op, const Placement& result);
  /// A parameter of which each rank holds its part of one or two axes.
  using Cut = std::pair<int64_t, Layout>;
  ir::Value* cut_param(ir::Value* param, const std::vector<Cut>& cuts);
  /// A parameter that the first position along `over` holds, and the others hold zeros for.
  static Layout only_first(MeshAxis over, int64_t total, int parts);
  void rename_params();
  ir::Value* insert(ir::OpKind kind, ir::Value* operand, ir::Attrs attrs, const std::string& name);
  /// `world` for an axis that has all ranks, so that equal groups compare equal.
  MeshAxis canonical(MeshAxis axis) const;
  static Placement sharded(int64_t axis, Layout layout);
  static Placement partial(MeshAxis over);

  ir::Module& module_;
  const PassOptions& options_;
  const Mesh mesh_;
  ir::Graph& step_;
  Iterator at_;       // the op that is placed
  StateHeads heads_;  // of the states that are split
  WishFinder tp_wishes_, etp_wishes_;
  std::set<const ir::Op*> kept_whole_;                // that rules would split
  std::map<const ir::Value*, Placement> placements_;  // absent: whole
  std::vector<std::tuple<const ir::Value*, Placement, ir::Value*>> conversions_;
  std::map<const ir::Value*, ir::Value*> gathered_, local_ids_;
  std::map<const ir::Value*, const ir::Op*> dispatches_;  // by ids; null: these are gathered
  std::map<int, ExpertPlacement> experts_;                // by number of the MoE layer in the model
  struct CutParam {
    ir::Value* from;
    std::vector<Cut> cuts;
    ir::Value* to;
  };
  std::vector<CutParam> cut_params_;
};

}  // namespace shunt::passes
