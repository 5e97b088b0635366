// The look-ahead of `place`. Tested by tests/passes/place.mir.
#include "passes/place/wish.h"

#include <algorithm>
#include <numeric>

#include "ir/error.h"

namespace shunt::passes {

using ir::Op;
using ir::OpKind;
using ir::Value;

namespace {

/// What two readers agree on; nullopt if they do not.
std::optional<Wish> both(const Wish& a, const Wish& b) {
  Wish out = a;
  out.gathered = a.gathered || b.gathered;
  out.unit = std::lcm(a.unit, b.unit);
  if (a.layout && b.layout && *a.layout != *b.layout) return std::nullopt;
  if (!out.layout) out.layout = b.layout;
  if (out.layout && !out.layout->divisible_by(out.unit)) return std::nullopt;
  return out;
}

bool is_weight(const Value* v) { return v != nullptr && v->is_param(); }

/// The axis that operand `i` shares with the result of an op that treats its elements alike.
bool same_shape(const Op& op, size_t i) {
  return op.operand(i)->type.shape == op.result()->type.shape;
}

}  // namespace

StateHeads find_state_heads(const ir::Graph& graph, MeshAxis over, int parts) {
  StateHeads heads;
  for (const auto& op : graph.ops) {
    if (op->kind != OpKind::attention) continue;
    const int64_t q = op->operand(0)->type.shape[1].constant();
    for (const size_t i : {4, 5}) {
      const Value* state = op->operand(i);
      if (state == nullptr) continue;
      const HeadSplit split = split_heads(over, q, state->type.shape[0].constant(), parts);
      const auto [it, added] = heads.emplace(state, split);
      if (!added && it->second.q != split.q) {
        user_error(
            "state @{} is read by attentions of different heads, which cannot be split over "
            "{} ranks",
            state->name, parts);
      }
    }
  }
  return heads;
}

std::optional<Wish> WishFinder::of(const Value* value, int64_t axis) const {
  if (ir::is_pinned(graph_, value)) {
    const bool output =
        std::find(graph_.outputs.begin(), graph_.outputs.end(), value) != graph_.outputs.end();
    // Logits: a vocabulary is worth a gather; a probe must stay whole.
    if (!output || !value->users.empty() || axis + 1 != value->type.rank()) return std::nullopt;
    return Wish{std::nullopt, 1, true};
  }
  if (value->users.empty()) return std::nullopt;
  std::optional<Wish> wish;
  for (const Op* user : value->users) {
    for (size_t i = 0; i < user->operands.size(); ++i) {
      if (user->operand(i) != value) continue;
      const std::optional<Wish> mine = of_use(*user, i, axis);
      if (!mine) return std::nullopt;
      wish = wish ? both(*wish, *mine) : mine;
      if (!wish) return std::nullopt;
    }
  }
  return wish;
}

std::optional<Wish> WishFinder::of_use(const Op& user, size_t i, int64_t axis) const {
  const bool last = axis + 1 == user.operand(i)->type.rank();
  switch (user.kind) {
    case OpKind::linear:
    case OpKind::routed_linear: {
      const auto& a = user.as<ir::LinearAttrs>();
      const bool plain = a.epilogue.empty() && !a.glu;
      // An expert's bias is added once; that of another epilogue would not be.
      const bool bias = user.kind == OpKind::routed_linear && a.epilogue == "acc + x0" && !a.glu;
      if (i != 0 || !last || !is_weight(user.operand(1)) || !(plain || bias)) return std::nullopt;
      return Wish{};
    }
    case OpKind::pointwise: return same_shape(user, i) ? of(user.result(), axis) : std::nullopt;
    case OpKind::head_linear:
      return i == 0 && axis == 1 && is_weight(user.operand(1)) ? of(user.result(), 1)
                                                               : std::nullopt;
    case OpKind::rope: return i == 0 && axis == 1 ? of(user.result(), 1) : std::nullopt;
    case OpKind::rms_norm:
    case OpKind::layer_norm:
      return i == 0 && !last && axis > 0 ? of(user.result(), axis) : std::nullopt;
    case OpKind::slice:
      return user.as<ir::SliceAttrs>().axis != axis ? of(user.result(), axis) : std::nullopt;
    case OpKind::concat:
      return user.as<ir::AxisAttrs>().axis != axis ? of(user.result(), axis) : std::nullopt;
    case OpKind::reshape: return through_reshape(user, axis);
    case OpKind::kv_append:
    case OpKind::attention:
    case OpKind::encoder_attention: return of_attention(user, i, axis);
    default: return std::nullopt;
  }
}

/// [T, h * d] <-> [T, h, d]: heads of the one are runs of d columns of the other.
std::optional<Wish> WishFinder::through_reshape(const Op& reshape, int64_t axis) const {
  const auto& from = reshape.operand(0)->type.shape;
  const auto& to = reshape.result()->type.shape;
  if (axis != 1 || from[0] != to[0]) return std::nullopt;
  std::optional<Wish> wish = of(reshape.result(), 1);
  if (!wish) return std::nullopt;
  if (from.size() == 2 && to.size() == 3) {
    const int64_t d = to[2].constant();
    if (wish->layout) wish->layout = wish->layout->times(d);
    wish->unit *= d;
    return wish;
  }
  if (from.size() != 3 || to.size() != 2) return std::nullopt;
  const int64_t d = from[2].constant();
  if (wish->layout) {
    if (!wish->layout->divisible_by(d)) return std::nullopt;
    wish->layout = wish->layout->divided_by(d);
  }
  wish->unit = std::max<int64_t>(1, std::lcm(wish->unit, d) / d);
  return wish;
}

std::optional<Wish> WishFinder::of_attention(const Op& user, size_t i, int64_t axis) const {
  if (axis != 1) return std::nullopt;
  if (user.kind == OpKind::kv_append) {
    if (i > 1) return std::nullopt;
    const auto it = states_.find(user.operand(5 + i));
    return it == states_.end() ? std::nullopt : std::optional(Wish{it->second.kv});
  }
  if (user.kind == OpKind::attention) {
    const auto it = states_.find(user.operand(4));
    return i == 0 && it != states_.end() ? std::optional(Wish{it->second.q}) : std::nullopt;
  }
  if (i > 2) return std::nullopt;
  const HeadSplit split = split_heads(over_, user.operand(0)->type.shape[1].constant(),
                                      user.operand(1)->type.shape[1].constant(), parts_);
  return Wish{i == 0 ? split.q : split.kv};
}

std::optional<Wish> WishFinder::of_rows(const Op& linear) const {
  const auto& a = linear.as<ir::LinearAttrs>();
  const Value* w = linear.operand(1);
  if (!a.epilogue.empty() || a.glu || !w->is_param() || parts_ == 1 ||
      w->type.shape[0].constant() < parts_) {
    return std::nullopt;
  }
  return of(linear.result(), 1);
}

Layout WishFinder::choose(const Wish& wish, int64_t total) const {
  return wish.layout ? *wish.layout : split_even(over_, total, parts_, wish.unit);
}

}  // namespace shunt::passes
