// Conversions between placements, and the parts of parameters that ranks hold. Tested by
// tests/passes/place.mir.
#include <algorithm>

#include "ir/error.h"
#include "passes/place/placer.h"

namespace shunt::passes {

using ir::Op;
using ir::OpKind;
using ir::Value;
using Kind = Placement::Kind;

const Placement& Placer::placement(const Value* value) const {
  static const Placement kWhole;
  const auto it = placements_.find(value);
  return it == placements_.end() ? kWhole : it->second;
}

Placement Placer::whole(const Value& value) const {
  Placement p;
  p.routes = placement(&value).routes;
  return p;
}

Placement Placer::sharded(int64_t axis, Layout layout) {
  Placement p;
  if (layout.is_whole()) return p;
  p.kind = Kind::sharded;
  p.axis = axis;
  p.layout = std::move(layout);
  p.over = p.layout.over;
  return p;
}

Placement Placer::partial(MeshAxis over) {
  Placement p;
  p.kind = Kind::partial;
  p.over = over;
  return p;
}

MeshAxis Placer::canonical(MeshAxis axis) const {
  return mesh_.size(axis) == mesh_.size() ? MeshAxis::world : axis;
}

Layout Placer::only_first(MeshAxis over, int64_t total, int parts) {
  Layout layout{over, total, std::vector<ir::Runs>(static_cast<size_t>(parts))};
  layout.runs[0] = {0, total};
  return layout;
}

Value* Placer::insert(OpKind kind, Value* operand, ir::Attrs attrs, const std::string& name) {
  ir::GraphBuilder builder(step_, at_);
  builder.set_loc(operand->def != nullptr ? operand->def->loc : (*at_)->loc);
  return builder.value(kind, {operand}, std::move(attrs), name);
}

Value* Placer::converted(Value* value, const Placement& wanted) {
  const Placement now = placement(value);
  if (value == nullptr || now == wanted) return value;
  for (const auto& [from, how, to] : conversions_) {
    if (from == value && how == wanted) return to;
  }
  const std::string where = value->def != nullptr ? " of " + value->def->loc : "";
  if (now.routes != wanted.routes) {
    user_error(
        "%{}{} has rows that are spread over ranks with the experts that make them, and no rule "
        "says how its readers take them: use one rank",
        value->name, where);
  }
  Value* out = nullptr;
  if (now.kind == Kind::partial && wanted.kind == Kind::whole) {
    out = insert(OpKind::all_reduce, value, ir::ReduceAttrs{now.over, mesh_.size(now.over)},
                 value->name + ".sum");
  } else if (now.kind == Kind::sharded && wanted.kind == Kind::whole) {
    if (!now.layout.is_partition()) {
      user_error(
          "%{}{} is spread over {} with parts that several ranks hold, and all of it is needed: "
          "choose another mesh",
          value->name, where, axis_name(now.over));
    }
    ir::GatherAttrs a{now.axis, now.over, mesh_.size(now.over), {}};
    for (size_t i = 0; i < now.layout.runs.size(); ++i) a.sizes.push_back(now.layout.count(i));
    out = insert(OpKind::all_gather, value, a, value->name + ".all");
  } else if (wanted.kind == Kind::sharded && now.kind == Kind::whole) {
    const Layout& l = wanted.layout;
    out = value->is_param()
              ? cut_param(value, {{wanted.axis, l}})
              : insert(OpKind::shard, value, ir::ShardAttrs{wanted.axis, l.over, l.size(), l.runs},
                       value->name + ".part");
  } else if (wanted.kind == Kind::partial && now.kind == Kind::whole) {
    // The first rank's is the sum.
    const int64_t axis = value->type.rank() - 1;
    const int64_t total = value->type.last().constant();
    const Layout l = only_first(wanted.over, total, mesh_.size(wanted.over));
    out = value->is_param()
              ? cut_param(value, {{axis, l}})
              : insert(OpKind::shard, value, ir::ShardAttrs{axis, l.over, total, l.runs},
                       value->name + ".part");
  } else {
    out = converted(converted(value, whole(*value)), wanted);
  }
  placements_[out] = wanted;
  conversions_.emplace_back(value, wanted, out);
  return out;
}

void Placer::want(Op& op, size_t operand, const Placement& wanted) {
  Value* value = op.operand(operand);
  if (value == nullptr || value->is_state()) return;
  Value* as = converted(value, wanted);
  if (as != value) ir::set_operand(op, operand, as);
}

void Placer::settle(Op& op, const Placement& result) {
  const std::vector<Type> types = op.info().infer(op);
  for (size_t i = 0; i < types.size(); ++i) {
    op.result(i)->type = types[i];
    if (result.kind != Kind::whole || result.routes) placements_[op.result(i)] = result;
  }
}

Value* Placer::cut_param(Value* param, const std::vector<Cut>& cuts) {
  for (const CutParam& known : cut_params_) {
    if (known.from == param && known.cuts == cuts) return known.to;
  }
  ir::Graph& load = *module_.find_graph("load");
  const auto store = std::find_if(param->users.begin(), param->users.end(),
                                  [](const Op* user) { return user->kind == OpKind::store; });
  SHUNT_CHECK(store != param->users.end(), "parameter @{} is not stored by @load", param->name);
  ir::GraphBuilder builder(load, ir::find(load, *store));
  builder.set_loc((*store)->loc);
  Value* value = (*store)->operand(0);
  for (const auto& [axis, layout] : cuts) {
    if (layout.is_whole()) continue;
    value =
        builder.value(OpKind::shard, {value},
                      ir::ShardAttrs{axis, layout.over, layout.size(), layout.runs}, value->name);
  }
  std::string name = param->name + ".part";
  for (int n = 1; module_.find_param(name) != nullptr; ++n)
    name = fmt::format("{}.part.{}", param->name, n);
  Value* part = module_.add_param(name, value->type);
  builder.op(OpKind::store, {value, part});
  cut_params_.push_back({param, cuts, part});
  return part;
}

/// A part whose whole nobody reads any more takes its name, so that names survive placement.
void Placer::rename_params() {
  for (const CutParam& cut : cut_params_) {
    const auto& users = cut.from->users;
    const auto parts = std::count_if(cut_params_.begin(), cut_params_.end(),
                                     [&](const CutParam& c) { return c.from == cut.from; });
    const bool unread = std::all_of(users.begin(), users.end(),
                                    [](const Op* op) { return op->kind == OpKind::store; });
    if (!unread || parts != 1) continue;
    const std::string name = cut.from->name;
    module_.rename_param(cut.from, name + ".whole");
    module_.rename_param(cut.to, name);
  }
}

}  // namespace shunt::passes
