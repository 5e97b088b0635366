// How each op of attention, dense MLPs and embeddings works on a rank's part. Tested by
// tests/passes/place.mir.
#include <algorithm>
#include <set>

#include "ir/error.h"
#include "ir/expr.h"
#include "passes/place/placer.h"

namespace shunt::passes {

using ir::Op;
using ir::OpKind;
using ir::Value;
using Kind = Placement::Kind;

namespace {

bool is_last_axis(const Value& v, int64_t axis) { return axis + 1 == v.type.rank(); }

/// True if scaling all of `names` by c scales the expression by c: then a sum over ranks may come
/// after it.
bool is_linear_in(const Expr& expr, const std::set<std::string>& names) {
  std::vector<int> degrees;  // -1: neither 0 nor 1
  for (const Expr::Node& node : expr.nodes()) {
    const auto arity = static_cast<size_t>(Expr::arity(node.code));
    const std::vector<int> args(degrees.end() - static_cast<std::ptrdiff_t>(arity), degrees.end());
    degrees.resize(degrees.size() - arity);
    int degree = -1;
    switch (node.code) {
      case Expr::Code::constant: degree = 0; break;
      case Expr::Code::variable:
        degree = names.contains(expr.variables()[static_cast<size_t>(node.variable)]) ? 1 : 0;
        break;
      case Expr::Code::add:
      case Expr::Code::sub: degree = args[0] == args[1] ? args[0] : -1; break;
      case Expr::Code::mul: degree = args[0] + args[1] <= 1 ? args[0] + args[1] : -1; break;
      case Expr::Code::div: degree = args[1] == 0 ? args[0] : -1; break;
      case Expr::Code::neg: degree = args[0]; break;
      default:
        degree = std::all_of(args.begin(), args.end(), [](int d) { return d == 0; }) ? 0 : -1;
    }
    if (degree < 0 || std::count(args.begin(), args.end(), -1) > 0) return false;
    degrees.push_back(degree);
  }
  return degrees.size() == 1 && degrees[0] == 1;
}

}  // namespace

/// Rows of the weight follow the readers' wish (column parallel); columns follow a sharded x, and
/// the results are partial sums (row parallel).
void Placer::place_linear(Op& op) {
  const auto& a = op.as<ir::LinearAttrs>();
  Value* w = op.operand(1);
  if (!a.epilogue.empty() || a.glu || !w->is_param()) return keep_whole(op);
  const Placement x = placement(op.operand(0));
  if (x.kind == Kind::sharded && is_last_axis(*op.operand(0), x.axis)) {
    ir::set_operand(op, 1, cut_param(w, {{1, x.layout}}));
    return settle(op, partial(canonical(x.over)));
  }
  const int64_t rows = w->type.shape[0].constant();
  const std::optional<Wish> wish = tp_wishes_.of_rows(op);
  if (!wish) return keep_whole(op);
  want_whole(op, 0);
  const Layout layout = tp_wishes_.choose(*wish, rows);
  if (!layout.is_whole()) ir::set_operand(op, 1, cut_param(w, {{0, layout}}));
  settle(op, sharded(1, layout));
}

/// Sums over ranks commute with what is linear in them: residual sums of experts and a shared
/// expert stay partial. A bias beside them is added by one rank.
bool Placer::place_partial_pointwise(Op& op) {
  const Expr expr = Expr::parse(op.as<ir::PointwiseAttrs>().expr);
  std::optional<Placement> sum;
  std::set<std::string> partials, params;
  for (size_t i = 0; i < op.operands.size(); ++i) {
    const Placement p = placement(op.operand(i));
    const std::string name = "x" + std::to_string(i);
    if (p.kind == Kind::sharded) return false;
    if (p.kind == Kind::partial) {
      if (sum && *sum != p) return false;
      sum = p;
      partials.insert(name);
    } else if (op.operand(i)->is_param()) {
      params.insert(name);
    }
  }
  if (is_linear_in(expr, partials)) {
    settle(op, *sum);
    return true;
  }
  params.insert(partials.begin(), partials.end());
  if (sum->routes || !is_linear_in(expr, params)) return false;
  for (size_t i = 0; i < op.operands.size(); ++i) {
    if (params.contains("x" + std::to_string(i))) want(op, i, *sum);
  }
  settle(op, *sum);
  return true;
}

void Placer::place_pointwise(Op& op) {
  const auto kind_of = [&](const Value* v) { return placement(v).kind; };
  const auto is = [&](Kind kind) {
    return [&, kind](const Value* v) { return kind_of(v) == kind; };
  };
  if (std::any_of(op.operands.begin(), op.operands.end(), is(Kind::partial)) &&
      place_partial_pointwise(op)) {
    return;
  }
  const auto part = std::find_if(op.operands.begin(), op.operands.end(), is(Kind::sharded));
  if (part == op.operands.end()) {
    const bool routes = std::any_of(op.operands.begin(), op.operands.end(),
                                    [&](const Value* v) { return placement(v).routes; });
    if (!routes) return keep_whole(op);
    for (size_t i = 0; i < op.operands.size(); ++i) want(op, i, whole(*op.operand(i)));
    Placement result;
    result.routes = true;
    return settle(op, result);
  }
  const Placement result = placement(*part);
  const std::vector<Dim> all = op.result()->type.shape;  // not settled yet
  for (size_t i = 0; i < op.operands.size(); ++i) {
    const Placement now = placement(op.operand(i));
    if (now == result) continue;
    const std::vector<Dim> shape = now.kind == Kind::sharded ? all : op.operand(i)->type.shape;
    if (shape.size() == 1 && all.size() > 1) {  // [N]
      const bool last = result.axis + 1 == static_cast<int64_t>(all.size());
      want(op, i, last ? sharded(0, result.layout) : whole(*op.operand(i)));
    } else if (shape[static_cast<size_t>(result.axis)] == all[static_cast<size_t>(result.axis)]) {
      want(op, i, result);
    } else {  // [.., 1] beside a sharded last axis
      want(op, i, whole(*op.operand(i)));
    }
  }
  settle(op, result);
}

/// [T, h * d] <-> [T, h, d].
void Placer::place_reshape(Op& op) {
  const Placement x = placement(op.operand(0));
  if (x.kind == Kind::partial || (x.kind == Kind::whole && x.routes)) return settle(op, x);
  const std::vector<Dim>& from = op.operand(0)->type.shape;
  std::vector<Dim> to = op.as<ir::ReshapeAttrs>().shape;
  const bool heads = x.kind == Kind::sharded && x.axis == 1 && from[0] == to[0];
  if (heads && from.size() == 2 && to.size() == 3 && x.layout.divisible_by(to[2].constant())) {
    const Layout layout = x.layout.divided_by(to[2].constant());
    op.as<ir::ReshapeAttrs>().shape[1] = layout.size();
    return settle(op, sharded(1, layout));
  }
  if (heads && from.size() == 3 && to.size() == 2) {
    const Layout layout = x.layout.times(from[2].constant());
    op.as<ir::ReshapeAttrs>().shape[1] = layout.size();
    return settle(op, sharded(1, layout));
  }
  keep_whole(op);
}

/// Ops that treat the indices of some axes alike: a part of such an axis stays a part. Rows of
/// routes are part of axis 0.
void Placer::place_along(Op& op) {
  const bool moves = op.kind == OpKind::slice || op.kind == OpKind::concat;
  const bool norm = op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm;
  if (norm && placement(op.operand(0)).routes) want(op, 0, whole(*op.operand(0)));
  const Placement x = placement(op.operand(0));
  if (x.kind == Kind::whole && !x.routes) return keep_whole(op);
  bool fits = false;
  if (x.kind == Kind::partial) {
    fits = moves;
  } else if (op.kind == OpKind::rope) {
    fits = x.axis == 1;
  } else if (op.kind == OpKind::slice) {
    fits = op.as<ir::SliceAttrs>().axis != x.axis;
  } else if (op.kind == OpKind::concat) {
    fits = op.as<ir::AxisAttrs>().axis != x.axis;
  } else {
    fits = !is_last_axis(*op.operand(0), x.axis);  // norms
  }
  if (!fits) return keep_whole(op);
  for (size_t i = 1; op.kind == OpKind::concat && i < op.operands.size(); ++i) want(op, i, x);
  settle(op, x);
}

/// A table that is the language head too is split by vocabulary, as the head is; any other stays
/// whole, since reading a row is cheaper than summing it over ranks.
void Placer::place_embedding(Op& op) {
  Value* table = op.operand(1);
  for (const Op* user : table->users) {
    if (user->kind != OpKind::linear || user->operand(1) != table || kept_whole_.contains(user))
      continue;
    const std::optional<Wish> wish = tp_wishes_.of_rows(*user);
    if (!wish) continue;
    const Layout layout = tp_wishes_.choose(*wish, table->type.shape[0].constant());
    auto& a = op.as<ir::EmbeddingAttrs>();
    a.over = MeshAxis::tp;
    for (const ir::Runs& runs : layout.runs) a.begins.push_back(runs.empty() ? 0 : runs[0]);
    ir::set_operand(op, 1, cut_param(table, {{0, layout}}));
    return settle(op, partial(canonical(MeshAxis::tp)));
  }
  keep_whole(op);
}

/// A head's matrix goes where the head is.
void Placer::place_head_linear(Op& op) {
  const Placement x = placement(op.operand(0));
  Value* w = op.operand(1);
  if (x.kind != Kind::sharded || x.axis != 1 || !w->is_param()) return keep_whole(op);
  if (!x.layout.is_whole()) ir::set_operand(op, 1, cut_param(w, {{0, x.layout}}));
  settle(op, x);
}

void Placer::place_kv_append(Op& op) {
  for (const size_t i : {0, 1}) {
    const auto it = heads_.find(op.operand(5 + i));
    want(op, i, it == heads_.end() ? Placement{} : sharded(1, it->second.kv));
  }
  settle(op, {});
}

void Placer::place_attention(Op& op) {
  HeadSplit split;
  int64_t value_dim = 0;
  if (op.kind == OpKind::attention) {
    split = heads_.at(op.operand(4));
    const Value* values = op.operand(5);
    value_dim = values != nullptr ? values->type.shape[1].constant()
                                  : op.as<ir::AttentionAttrs>().value_dim;
    for (const size_t i : {6, 7}) want(op, i, sharded(0, split.q));
  } else {
    const auto heads = [&](size_t i) {
      const Placement p = placement(op.operand(i));
      return p.kind == Kind::sharded ? p.layout.total : op.operand(i)->type.shape[1].constant();
    };
    split = split_heads(MeshAxis::tp, heads(0), heads(1), mesh_.tp);
    value_dim = op.operand(2)->type.shape[2].constant();
    for (const size_t i : {1, 2}) want(op, i, sharded(1, split.kv));
  }
  want(op, 0, sharded(1, split.q));
  settle(op, sharded(1, split.q.times(value_dim)));
}

}  // namespace shunt::passes
