// What ranks along tp split together or not at all: the heads of an attention with its projections,
// the columns of an MLP, the vocabulary of the head.
#pragma once

#include <string>
#include <vector>

#include "ir/module.h"
#include "passes/place/wish.h"

namespace shunt::passes {

/// Ops that work on parts of one axis, or all on the whole of it. The linear that sums parts up
/// again (row parallel) follows a region and is none of its ops.
struct Region {
  /// The name of the result of its attention, else of its first op, with `l<layer>.` as `l*.`:
  /// "l*.attention", "l*.gate", "l*.shared_gate", "logits". Regions that layers repeat share it.
  std::string name;
  std::vector<const ir::Op*> ops;  // in the graph's order
};

/// Of a logical @step, in the graph's order. `wishes`: of the axis tp.
std::vector<Region> find_regions(const ir::Graph& step, const WishFinder& wishes);

/// The names of find_regions, each once.
std::vector<std::string> region_names(const ir::Module& logical, int tp);

}  // namespace shunt::passes
