// Experts on a mesh: each rank runs its own on the tokens of all dp groups, and the results are
// summed. With one dp group the activations are there already and the sum is one all_reduce, taken
// by whoever reads it; with several they are gathered, and the sum is scattered, or each token is
// dispatched to the ranks whose experts it takes, and their results are combined where it came
// from. Tested by tests/passes/place.mir.
#include <algorithm>
#include <set>

#include "ir/collectives.h"
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
  if (options_.expert_map) {
    const ExpertMapLayer* mine = options_.expert_map->find_layer(layer);
    if (mine == nullptr) user_error("--expert-map has no layer {}", layer);
    if (mine->expert_count() != experts) {
      user_error("--expert-map has {} experts in layer {}, the model {}", mine->expert_count(),
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

/// Which rank and slot each expert's routes go to, as a parameter.
Value* Placer::expert_table(const Op& op, const Value& ids, int64_t experts) {
  ir::Graph* load = module_.find_graph("load");
  if (load == nullptr) load = &module_.add_graph("load");
  ir::GraphBuilder builder(*load);
  builder.set_loc(op.loc);
  Value* values =
      builder.value(OpKind::constant, {}, ir::ConstantAttrs{experts_of(op, experts).table});
  Value* table = module_.add_param(ids.name + ".ranks", values->type);
  builder.op(OpKind::store, {values, table});
  return table;
}

/// The ids of an op as slots of this rank's experts.
Value* Placer::local_ids(Op& op, size_t operand, int64_t experts) {
  Value* ids = op.operand(operand);
  Value*& out = local_ids_[ids];
  if (out != nullptr) return out;
  Value* all = gathered(ids);
  if (mesh_.ep == 1) return out = all;
  Value* table = expert_table(op, *ids, experts);
  ir::GraphBuilder step(step_, at_);
  step.set_loc(op.loc);
  return out = step.value(OpKind::local_routes, {all, table},
                          ir::LocalRoutesAttrs{experts, experts_of(op, experts).replicas},
                          ids->name + ".local");
}

/// True if one exchange serves all who read the ids from here on: experts take x, or what was made
/// of routes before, and one op combines the results.
bool Placer::one_exchange_serves(const Value* x, const Value* ids) const {
  std::set<const Value*> made;  // of routes
  int combines = 0;
  for (auto it = at_; it != step_.ops.end(); ++it) {
    const Op& op = **it;
    const auto reads = [&](const Value* v) {
      return std::find(op.operands.begin(), op.operands.end(), v) != op.operands.end();
    };
    const bool routed = op.kind == OpKind::routed_linear && op.operand(2) == ids;
    if (routed && op.operand(0) != x && !made.contains(op.operand(0))) return false;
    if (op.kind == OpKind::combine_routes) {
      combines += op.operand(2) == ids;
    } else if (routed || std::any_of(made.begin(), made.end(), reads)) {
      for (const auto& r : op.results) made.insert(r.get());
    }
  }
  return combines == 1;
}

/// The dispatch that brings the tokens of a routed_linear to their experts; null if they are
/// gathered. Weights go with the tokens, so that a rank sends one row back for each it got; they
/// must be known by then, and a row be a token's, not a route's.
const Op* Placer::dispatched(Op& op, int64_t experts) {
  const bool asked = options_.moe_comm == MoeComm::alltoall;
  const bool wanted = asked || (options_.moe_comm == MoeComm::automatic &&
                                exchanges_over_peers(mesh_.dp, options_.peer_memory));
  if (mesh_.dp == 1 || !wanted) return nullptr;
  Value* ids = op.operand(2);
  const auto [it, added] = dispatches_.try_emplace(ids, nullptr);
  if (!added) return it->second;
  const auto user = std::find_if(ids->users.begin(), ids->users.end(),
                                 [](const Op* u) { return u->kind == OpKind::combine_routes; });
  Value* w = user == ids->users.end() ? nullptr : (*user)->operand(1);
  const bool known = w != nullptr && (w->def == nullptr ||
                                      std::find_if(step_.ops.begin(), at_, [&](const auto& before) {
                                        return before.get() == w->def;
                                      }) != at_);
  if (!known || op.operand(0)->type.shape[0] != ids->type.shape[0] ||
      !one_exchange_serves(op.operand(0), ids)) {
    if (!asked) return nullptr;
    user_error(
        "the experts of {} take rows that are weighted route by route, or share their routes with "
        "others: use --moe-comm allgather",
        op.loc);
  }
  want_whole(op, 0);
  Value* x = op.operand(0);
  Value* table = expert_table(op, *ids, experts);
  ir::GraphBuilder builder(step_, at_);
  builder.set_loc(op.loc);
  const ir::DispatchAttrs attrs{
      {experts, experts_of(op, experts).replicas}, MeshAxis::dp, mesh_.dp};
  return it->second = builder.op(
             OpKind::dispatch, {x, ids, w, table}, attrs,
             {x->name + ".sent", ids->name + ".local", w->name + ".sent", ids->name + ".places"});
}

void Placer::place_routed_linear(Op& op) {
  Value* w = op.operand(1);
  SHUNT_CHECK(w->is_param(), "experts of {} are no parameter", op.loc);
  const int64_t experts = w->type.shape[0].constant();
  const Layout owned = experts_of(op, experts).experts;
  Placement x = placement(op.operand(0));
  const Op* sent = dispatched(op, experts);
  if (!x.routes && sent == nullptr) want_whole(op, 0);
  Value* ids = sent != nullptr ? sent->result(1) : local_ids(op, 2, experts);
  if (!x.routes) {
    ir::set_operand(op, 0, sent != nullptr ? sent->result(0) : gathered(op.operand(0)));
    x = {};
  }
  Placement result;
  std::vector<Cut> weight = {{0, owned}}, bias = {{0, owned}};
  if (x.kind == Kind::sharded) {
    const int64_t columns = w->type.shape[1].constant();
    weight.push_back({2, x.layout});
    bias.push_back({1, only_first(MeshAxis::etp, columns, mesh_.etp)});
    result = partial(MeshAxis::etp);
  } else if (mesh_.etp > 1 && !op.as<ir::LinearAttrs>().glu) {
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
  if (!y.routes) return keep_whole(op);  // rows that every rank has
  SHUNT_CHECK(y.kind != Kind::sharded && op.operand(3) == nullptr,
              "combine_routes at {} does not follow experts", op.loc);
  want_whole(op, 1);
  const auto known = dispatches_.find(op.operand(2));
  const Op* sent = known == dispatches_.end() ? nullptr : known->second;
  if (sent != nullptr) {
    ir::set_operand(op, 1, sent->result(2));
    ir::set_operand(op, 2, sent->result(1));
  } else {
    ir::set_operand(op, 1, gathered(op.operand(1)));
    const auto ids = local_ids_.find(op.operand(2));
    SHUNT_CHECK(ids != local_ids_.end(), "combine_routes at {} has ids of its own", op.loc);
    ir::set_operand(op, 2, ids->second);
  }
  // Without slices every etp rank has the same result, and the sum is over ep alone.
  const bool sliced = y.kind == Kind::partial || mesh_.etp == 1;
  const MeshAxis over = canonical(!sliced         ? MeshAxis::ep
                                  : mesh_.ep == 1 ? MeshAxis::etp
                                                  : MeshAxis::world);
  if (mesh_.dp == 1) {
    return settle(op, mesh_.size(over) == 1 ? Placement{} : partial(over));
  }
  settle(op, {});
  // The result is for tokens of all dp groups; each takes its own back.
  Value* all = op.result();
  ir::GraphBuilder builder(step_, std::next(at_));
  builder.set_loc(op.loc);
  Value* part = all;
  if (!sliced) {  // the sum is over all ranks: one of each etp group adds to it
    const Layout first = only_first(MeshAxis::etp, all->type.last().constant(), mesh_.etp);
    part = builder.value(OpKind::shard, {all},
                         ir::ShardAttrs{1, first.over, first.total, first.runs}, "of_first");
    ++at_;
  }
  const ir::ReduceAttrs groups{MeshAxis::dp, mesh_.dp};
  Value* mine = sent != nullptr
                    ? builder.value(OpKind::combine, {part, sent->result(3)}, groups, "returned")
                    : builder.value(OpKind::reduce_scatter, {part}, groups, "scattered");
  Op* first_user = part == all ? mine->def : part->def;
  ir::replace_uses(step_, all, mine);
  ir::set_operand(*first_user, 0, all);
  if (mesh_.tp > 1) placements_[mine] = partial(canonical(MeshAxis::tp));
  ++at_;
  if (ir::is_pinned(step_, mine)) finish_pinned(*mine);
}

}  // namespace shunt::passes
