// What the passes share. Entry points: passes/rewrite.h. Tested through every pass
// (tests/passes/*.mir).
#include "passes/rewrite.h"

#include <fmt/format.h>

#include <algorithm>

#include "ir/error.h"

namespace shunt::passes {

using ir::Graph;
using ir::GraphBuilder;
using ir::GroupedLinearAttrs;
using ir::LinearAttrs;
using ir::Module;
using ir::Op;
using ir::OpKind;
using ir::SliceAttrs;
using ir::Value;

Graph* step_graph(const Module& module) { return module.find_graph("step"); }

Op* producer(const Value* value, OpKind kind) {
  if (value == nullptr || value->def == nullptr || value->def->kind != kind) return nullptr;
  return value->def;
}

bool is_private(const Graph& graph, const Value* value) {
  return value->users.size() == 1 && !ir::is_pinned(graph, value);
}

bool is_residual_add(const Op& op) {
  if (op.kind != OpKind::pointwise || op.operands.size() != 2) return false;
  const Type& type = op.result()->type;
  if (op.operand(0)->type != type || op.operand(1)->type != type) return false;
  const Expr expr = Expr::parse(op.as<ir::PointwiseAttrs>().expr);
  return expr.to_string() == "x0 + x1" || expr.to_string() == "x1 + x0";
}

bool is_leaf(const Value* value) {
  return value == nullptr || value->is_param() || value->kind == Value::Kind::input;
}

// ---- names ----

std::string joined_name(std::span<const std::string> names) {
  size_t prefix = names[0].size(), suffix = names[0].size();
  for (const std::string& name : names) {
    size_t p = 0, s = 0;
    while (p < std::min(prefix, name.size()) && name[p] == names[0][p]) ++p;
    while (s < std::min(suffix, name.size()) && name.end()[-1 - s] == names[0].end()[-1 - s]) ++s;
    prefix = p;
    suffix = s;
  }
  size_t shortest = names[0].size();
  for (const std::string& name : names) shortest = std::min(shortest, name.size());
  suffix = std::min(suffix, shortest - std::min(shortest, prefix));
  std::string middle;
  bool words = false;  // "gate" and "up" need a mark between them, "q" and "k" do not
  for (const std::string& name : names) {
    const size_t part = name.size() - prefix - suffix;
    if (part == 0) return names[0];  // "v", "v.1": nothing to join
    words = words || part > 1;
  }
  for (const std::string& name : names) {
    if (words && !middle.empty()) middle += '_';
    middle += name.substr(prefix, name.size() - prefix - suffix);
  }
  return names[0].substr(0, prefix) + middle + names[0].substr(names[0].size() - suffix);
}

// ---- expressions of linears ----

Expr substitute_all(const Expr& expr, const std::vector<std::pair<std::string, Expr>>& by) {
  std::vector<std::pair<std::string, std::string>> apart;
  for (size_t i = 0; i < by.size(); ++i)
    apart.emplace_back(by[i].first, fmt::format("operand{}", i));
  Expr result = expr.rename(apart);
  for (size_t i = 0; i < by.size(); ++i) result = result.substitute(apart[i].second, by[i].second);
  return result;
}

bool is_linear(const Op& op) {
  return op.kind == OpKind::linear || op.kind == OpKind::routed_linear ||
         op.kind == OpKind::grouped_linear;
}

size_t first_extra(const Op& op) {
  return op.kind == OpKind::linear ? 2 : op.kind == OpKind::routed_linear ? 3 : 4;
}

namespace {

/// Calls `f` with the attributes of a linear of any kind.
template <class F>
decltype(auto) with_linear_attrs(const Op& op, F&& f) {
  if (op.kind == OpKind::grouped_linear) return f(op.as<GroupedLinearAttrs>());
  return f(op.as<LinearAttrs>());
}

}  // namespace

bool has_glu(const Op& op) {
  return with_linear_attrs(op, [](const auto& a) { return a.glu; });
}

ir::Attrs with_epilogue(const Op& linear, const Expr& epilogue, DType out) {
  const auto edited = [&](auto attrs) -> ir::Attrs {
    const std::string text = epilogue.to_string();
    attrs.epilogue = text == "acc" ? "" : text;
    attrs.out = out;
    return attrs;
  };
  return with_linear_attrs(linear, edited);
}

Expr Extras::variable(Value* value) {
  auto it = std::find(values_.begin(), values_.end(), value);
  if (it == values_.end()) it = values_.insert(it, value);
  return Expr::parse(fmt::format("x{}", it - values_.begin()));
}

Expr epilogue_of(const Op& linear, Extras& extras) {
  const std::string text =
      with_linear_attrs(linear, [](const auto& a) -> const std::string& { return a.epilogue; });
  std::vector<std::pair<std::string, Expr>> by;
  const size_t first = first_extra(linear);
  for (size_t i = first; i < linear.operands.size(); ++i) {
    by.emplace_back(fmt::format("x{}", i - first), extras.variable(linear.operand(i)));
  }
  return substitute_all(Expr::parse(text.empty() ? "acc" : text), by);
}

Expr pointwise_over(const Op& pointwise, size_t index, const Expr& inner, Extras& extras) {
  std::vector<std::pair<std::string, Expr>> by;
  for (size_t i = 0; i < pointwise.operands.size(); ++i) {
    by.emplace_back(fmt::format("x{}", i),
                    i == index ? inner : extras.variable(pointwise.operand(i)));
  }
  return substitute_all(Expr::parse(pointwise.as<ir::PointwiseAttrs>().expr), by);
}

// ---- parameters ----

namespace {

/// The one op of @load that stores `param`; nullptr if there is none.
Op* store_of(const Value* param) {
  for (Op* user : param->users) {
    if (user->kind == OpKind::store) return user;
  }
  return nullptr;
}

/// The tensor, and the range of it, that neighbouring slices add up to.
struct Range {
  Value* source = nullptr;
  int64_t begin = 0, end = 0;
};

/// Range of `parts` if they are slices of one value along `axis`, each beginning where the last one
/// ends.
bool neighbours(std::span<Value* const> parts, int axis, Range* range) {
  for (const Value* part : parts) {
    const Op* slice = producer(part, OpKind::slice);
    if (slice == nullptr || slice->as<SliceAttrs>().axis != axis) return false;
    const auto& a = slice->as<SliceAttrs>();
    if (range->source == nullptr) *range = {slice->operand(0), a.begin, a.begin};
    if (slice->operand(0) != range->source || a.begin != range->end) return false;
    range->end = a.end;
  }
  return true;
}

/// The values in one: a tensor that is there already, else a slice or a concat.
Value* join(GraphBuilder& builder, std::span<Value* const> parts, int axis,
            const std::string& name) {
  Range range;
  if (!neighbours(parts, axis, &range)) {
    return builder.value(OpKind::concat, {parts.begin(), parts.end()}, ir::AxisAttrs{axis}, name);
  }
  if (range.begin == 0 && range.source->type.shape[static_cast<size_t>(axis)] == Dim(range.end))
    return range.source;
  return builder.value(OpKind::slice, {range.source}, SliceAttrs{axis, range.begin, range.end},
                       name);
}

}  // namespace

bool can_merge(const Module& module, std::span<Value* const> params, int axis) {
  if (module.find_graph("load") == nullptr) return false;
  Type first = params[0]->type;
  if (axis >= first.rank()) return false;
  for (const Value* param : params) {
    if (!param->is_param() || store_of(param) == nullptr || param->users.size() != 2) return false;
    Type type = param->type;
    if (type.rank() != first.rank()) return false;
    type.shape[static_cast<size_t>(axis)] = first.shape[static_cast<size_t>(axis)];
    if (type != first) return false;
  }
  return true;
}

Value* merge_params(Module& module, std::span<Value* const> params, int axis) {
  Graph& load = *module.find_graph("load");
  std::vector<std::string> names;
  std::vector<Value*> parts;
  std::vector<const Op*> stores;
  for (const Value* param : params) {
    names.push_back(param->name);
    stores.push_back(store_of(param));
    parts.push_back(stores.back()->operand(0));
  }
  // Where the last of the stores is, all parts are at hand, and reads stay in the order of the
  // model.
  const auto is_store = [&](const auto& op) {
    return std::find(stores.begin(), stores.end(), op.get()) != stores.end();
  };
  const auto last = std::find_if(load.ops.rbegin(), load.ops.rend(), is_store);
  GraphBuilder builder(load, last.base());
  builder.set_loc((*last)->loc);
  std::string name = joined_name(names);
  for (int n = 1; module.find_param(name) != nullptr || module.find_state(name) != nullptr; ++n) {
    name = fmt::format("{}.{}", joined_name(names), n);
  }
  Value* value = join(builder, parts, axis, name);
  Value* merged = module.add_param(name, value->type);
  builder.op(OpKind::store, {value, merged});
  return merged;
}

}  // namespace shunt::passes
