// Entry point: find_regions(). Tested by tests/passes/place/sharding_test.cpp.
#include "passes/place/regions.h"

#include <algorithm>
#include <cctype>
#include <map>

namespace shunt::passes {

using ir::Op;
using ir::OpKind;
using ir::Value;

namespace {

bool is_attention(const Op& op) {
  return op.kind == OpKind::attention || op.kind == OpKind::encoder_attention;
}

/// "l12.gate" -> "l*.gate".
std::string folded(const std::string& name) {
  if (!name.starts_with('l')) return name;
  const auto end = std::find_if_not(name.begin() + 1, name.end(),
                                    [](unsigned char c) { return std::isdigit(c) != 0; });
  if (end == name.begin() + 1 || end == name.end() || *end != '.') return name;
  return "l*" + std::string(end, name.end());
}

/// Sets of ops that must agree, as a forest whose roots stand for them (union-find).
class Finder {
 public:
  Finder(const ir::Graph& step, const WishFinder& wishes) : step_(step), wishes_(wishes) {}

  std::vector<Region> run() {
    for (const auto& op : step_.ops) {
      const bool splits = op->kind == OpKind::linear && wishes_.of_rows(*op);
      if (splits || is_attention(*op) || op->kind == OpKind::kv_append) follow(*op);
    }
    std::vector<Region> regions;
    std::map<int, size_t> at;  // by root
    for (const auto& op : step_.ops) {
      const auto known = number_.find(op.get());
      if (known == number_.end()) continue;
      const auto [it, added] = at.emplace(root(known->second), regions.size());
      if (added) regions.emplace_back();
      regions[it->second].ops.push_back(op.get());
    }
    for (Region& r : regions) name(r);
    return regions;
  }

 private:
  /// Joins with `op` what takes parts of its result, and those that share a state with it.
  void follow(const Op& op) {
    const int mine = number(op);
    for (const Value* v : op.operands) {
      if (v == nullptr || !v->is_state()) continue;
      const auto [it, added] = by_state_.emplace(v, mine);
      if (!added) join(it->second, mine);
    }
    for (const auto& r : op.results) {
      if (r->type.rank() < 2 || !wishes_.of(r.get(), 1)) continue;
      for (const Op* user : r->users) {
        if (user->kind == OpKind::linear || user->kind == OpKind::routed_linear) continue;
        const bool seen = number_.contains(user);
        join(mine, number(*user));
        if (!seen) follow(*user);
      }
    }
  }

  int number(const Op& op) {
    const auto [it, added] = number_.emplace(&op, static_cast<int>(parent_.size()));
    if (added) parent_.push_back(it->second);
    return it->second;
  }
  int root(int i) const {
    while (parent_[static_cast<size_t>(i)] != i) i = parent_[static_cast<size_t>(i)];
    return i;
  }
  void join(int a, int b) {
    a = root(a);
    b = root(b);
    parent_[static_cast<size_t>(std::max(a, b))] = std::min(a, b);
  }

  static void name(Region& region) {
    const auto named = std::find_if(region.ops.begin(), region.ops.end(),
                                    [](const Op* op) { return is_attention(*op); });
    const Op& op = named == region.ops.end() ? *region.ops.front() : **named;
    region.name = folded(op.result()->name);
  }

  const ir::Graph& step_;
  const WishFinder& wishes_;
  std::map<const Op*, int> number_;
  std::map<const Value*, int> by_state_;
  std::vector<int> parent_;  // by number; of a root itself
};

}  // namespace

std::vector<Region> find_regions(const ir::Graph& step, const WishFinder& wishes) {
  return Finder(step, wishes).run();
}

std::vector<std::string> region_names(const ir::Module& logical, int tp) {
  if (tp == 1) return {};
  const ir::Graph& step = *logical.find_graph("step");
  const StateHeads heads = find_state_heads(step, MeshAxis::tp, tp);
  std::vector<std::string> names;
  for (const Region& r : find_regions(step, WishFinder(step, heads, MeshAxis::tp, tp))) {
    if (std::find(names.begin(), names.end(), r.name) == names.end()) names.push_back(r.name);
  }
  return names;
}

}  // namespace shunt::passes
