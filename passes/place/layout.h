// How an axis of a tensor is spread over the ranks of a group, and how attention heads, feature
// columns and experts are. Lists, not divisions: nothing has to divide by the number of ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "ir/attrs.h"
#include "ir/expert_map.h"

namespace shunt::passes {

/// The part of an axis of `total` indices that each position along `over` holds.
struct Layout {
  MeshAxis over = MeshAxis::tp;
  int64_t total = 0;
  std::vector<ir::Runs> runs;  // by position

  /// Indices that a position holds.
  int64_t count(size_t position) const;
  /// Of the position that holds most: the size of the axis on every rank.
  int64_t size() const;
  /// True if every position holds the whole axis in order.
  bool is_whole() const;
  /// True if the positions hold the axis in order, each index once: then a gather rebuilds it.
  bool is_partition() const;
  /// The same with every index standing for `n` neighbours (heads -> columns).
  Layout times(int64_t n) const;
  /// The inverse; requires divisible_by(n).
  Layout divided_by(int64_t n) const;
  bool divisible_by(int64_t n) const;
  bool operator==(const Layout&) const = default;
};

/// `total` indices in contiguous parts that are multiples of `unit`, the last one cut off. Among
/// the ways in which the largest part is smallest, the one with the roundest parts (up to 128),
/// which kernels like.
Layout split_even(MeshAxis over, int64_t total, int parts, int64_t unit = 1);

/// Query heads and the key/value heads they read, over `parts` ranks. Query head i reads kv head i
/// / (heads / kv_heads), on every rank too. With at least as many kv heads as ranks, whole groups
/// are dealt out; with fewer, a kv head is kept by several ranks, which share its query heads.
struct HeadSplit {
  Layout q, kv;
};
HeadSplit split_heads(MeshAxis over, int64_t heads, int64_t kv_heads, int parts);

/// The experts of each rank of an ep axis, by ascending number, as a layout of the experts' axis.
Layout expert_layout(const ExpertMapLayer& layer, int ranks);

/// The table of local_routes: of each expert `replicas` rows (position, slot, upper end of the
/// share).
std::vector<double> route_table(const ExpertMapLayer& layer, const Layout& experts,
                                int64_t replicas);

}  // namespace shunt::passes
