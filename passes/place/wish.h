// Looks ahead from the result of a linear: would everything that reads it work on a part of an
// axis?
#pragma once

#include <map>
#include <optional>

#include "ir/module.h"
#include "passes/place/layout.h"

namespace shunt::passes {

/// How the readers of a value want an axis of it spread over a group.
struct Wish {
  std::optional<Layout> layout;  // exactly so; else any layout
  int64_t unit = 1;              // ... whose parts are multiples of this
  bool gathered = false;         // some reader needs the whole again, at the price of a gather
};

/// Heads of each KV state of the graph, by its attention op, before anything is sharded.
using StateHeads = std::map<const ir::Value*, HeadSplit>;
StateHeads find_state_heads(const ir::Graph& graph, MeshAxis over, int parts);

class WishFinder {
 public:
  WishFinder(const ir::Graph& graph, const StateHeads& states, MeshAxis over, int parts)
      : graph_(graph), states_(states), over_(over), parts_(parts) {}

  /// nullopt: some reader needs the whole axis of `value`, and no gather is worth it.
  std::optional<Wish> of(const ir::Value* value, int64_t axis) const;
  /// ... of the result's last axis of a `linear`, so that its weight may be split by rows.
  std::optional<Wish> of_rows(const ir::Op& linear) const;
  /// The layout for an axis of `total` indices that a wish leads to.
  Layout choose(const Wish& wish, int64_t total) const;

 private:
  std::optional<Wish> of_use(const ir::Op& user, size_t operand, int64_t axis) const;
  std::optional<Wish> through_reshape(const ir::Op& reshape, int64_t axis) const;
  std::optional<Wish> of_attention(const ir::Op& user, size_t operand, int64_t axis) const;

  const ir::Graph& graph_;
  const StateHeads& states_;
  MeshAxis over_;
  int parts_;
};

}  // namespace shunt::passes
