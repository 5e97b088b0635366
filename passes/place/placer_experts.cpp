// Experts on a mesh: each rank runs its own on the tokens of all dp groups, and the results are
// summed. With one dp group the activations are there already and the sum is one all_reduce, taken
// by whoever reads it; with several they are gathered, and the sum is scattered. Tested by
// tests/passes/place.mir.
#include <algorithm>

#include "ir/error.h"
#include "passes/place/moe_shapes.h"
#include "passes/place/placer.h"

namespace shunt::passes {

using ir::Op;
using ir::OpKind;
using ir::Value;
using Kind = Placement::Kind;

const ExpertPlacement& Placer::experts_of(const Op& op, int64_t experts) {
  const int layer = layer_number(op.loc);
  const auto [it, added] = experts_.try_emplace(layer);
  ExpertPlacement& e = it->second;
  if (!added) return e;
  ExpertMapLayer where = contiguous_experts(layer, static_cast<int>(experts), mesh_.ep);
  if (map_ != nullptr) {
    const ExpertMapLayer* mine = map_->find_layer(layer);
    if (mine == nullptr) user_error("the expert map has no layer {}", layer);
    if (mine->expert_count() != experts) {
      user_error("the expert map has {} experts in layer {}, the model {}", mine->expert_count(),
                 layer, experts);
    }
    where = *mine;
  }
  e.experts = expert_layout(where, mesh_.ep);
  for (const auto& replicas : where.experts)
    e.replicas = std::max(e.replicas, static_cast<int64_t>(replicas.size()));
  e.table = route_table(where, e.experts, e.replicas);
  return e;
}

Value* Placer::gathered(Value* value) {
  if (mesh_.dp == 1) return value;
  Value*& out = gathered_[value];
  if (out == nullptr) {
    out = insert(OpKind::all_gather, value, ir::GatherAttrs{0, MeshAxis::dp, mesh_.dp, {}},
                 value->name + ".gathered");
  }
  return out;
}

/// The ids of an op as slots of this rank's experts.
Value* Placer::local_ids(Op& op, size_t operand, int64_t experts) {
  Value* ids = op.operand(operand);
  Value*& out = local_ids_[ids];
  if (out != nullptr) return out;
  Value* all = gathered(ids);
  if (mesh_.ep == 1) return out = all;
  const ExpertPlacement& e = experts_of(op, experts);
  ir::Graph& load = *module_.find_graph("load");
  ir::GraphBuilder builder(load);
  builder.set_loc(op.loc);
  Value* values = builder.value(OpKind::constant, {}, ir::ConstantAttrs{e.table});
  Value* table = module_.add_param(ids->name + ".ranks", values->type);
  builder.op(OpKind::store, {values, table});
  ir::GraphBuilder step(step_, at_);
  step.set_loc(op.loc);
  return out = step.value(OpKind::local_routes, {all, table},
                          ir::LocalRoutesAttrs{experts, e.replicas}, ids->name + ".local");
}

void Placer::place_routed_linear(Op& op) {
  Value* w = op.operand(1);
  SHUNT_CHECK(w->is_param(), "experts of {} are no parameter", op.loc);
  const int64_t experts = w->type.shape[0].constant();
  const Layout owned = experts_of(op, experts).experts;
  Value* ids = local_ids(op, 2, experts);
  Placement x = placement(op.operand(0));
  if (!x.routes) {
    want_whole(op, 0);
    ir::set_operand(op, 0, gathered(op.operand(0)));
    x = {};
  }
  Placement result;
  std::vector<Cut> weight = {{0, owned}}, bias = {{0, owned}};
  if (x.kind == Kind::sharded) {
    const int64_t columns = w->type.shape[1].constant();
    weight.push_back({2, x.layout});
    bias.push_back({1, only_first(MeshAxis::etp, columns, mesh_.etp)});
    result = partial(MeshAxis::etp);
  } else if (mesh_.etp > 1) {
    if (const auto wish = etp_wishes_.of(op.result(), 1)) {
      const Layout layout = etp_wishes_.choose(*wish, w->type.shape[1].constant());
      weight.push_back({1, layout});
      bias.push_back({1, layout});
      result = sharded(1, layout);
    }
  }
  result.routes = true;
  ir::set_operand(op, 1, cut_param(w, weight));
  ir::set_operand(op, 2, ids);
  for (size_t i = 3; i < op.operands.size(); ++i) {
    SHUNT_CHECK(op.operand(i)->is_param(), "a bias of the experts of {} is no parameter", op.loc);
    ir::set_operand(op, i, cut_param(op.operand(i), bias));
  }
  settle(op, result);
}

void Placer::place_combine_routes(Op& op) {
  const Placement y = placement(op.operand(0));
  SHUNT_CHECK(y.routes && y.kind != Kind::sharded && op.operand(3) == nullptr,
              "combine_routes at {} does not follow experts", op.loc);
  want_whole(op, 1);
  ir::set_operand(op, 1, gathered(op.operand(1)));
  const auto ids = local_ids_.find(op.operand(2));
  SHUNT_CHECK(ids != local_ids_.end(), "combine_routes at {} has ids of its own", op.loc);
  ir::set_operand(op, 2, ids->second);
  // Without slices every etp rank has the same result, and the sum is over ep alone.
  const bool sliced = y.kind == Kind::partial || mesh_.etp == 1;
  const MeshAxis over = canonical(!sliced         ? MeshAxis::ep
                                  : mesh_.ep == 1 ? MeshAxis::etp
                                                  : MeshAxis::world);
  if (mesh_.dp == 1) {
    return settle(op, mesh_.size(over) == 1 ? Placement{} : partial(over));
  }
  if (!sliced) {
    user_error(
        "the experts of {} cannot be sliced over etp {} while tokens are split over dp {}: "
        "use etp 1",
        op.loc, mesh_.etp, mesh_.dp);
  }
  settle(op, {});
  // The result is for the tokens of all dp groups; each takes its own back.
  Value* all = op.result();
  ir::GraphBuilder builder(step_, std::next(at_));
  builder.set_loc(op.loc);
  Value* mine = builder.value(OpKind::reduce_scatter, {all},
                              ir::ReduceAttrs{MeshAxis::dp, mesh_.dp}, "scattered");
  Op* scatter = mine->def;
  ir::replace_uses(step_, all, mine);
  ir::set_operand(*scatter, 0, all);
  if (mesh_.tp > 1) placements_[mine] = partial(canonical(MeshAxis::tp));
  ++at_;
}

}  // namespace shunt::passes
