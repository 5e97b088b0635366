// The mesh: how the ranks of a plan are arranged. Attention and dense layers see it as dp x tp,
// experts as ep x etp, over the same ranks: dp * tp == ep * etp (DeepSpeed's mp, ep and expert-mp
// groups). Plain data.
//
//   rank = dp_index * tp + tp_index = ep_index * etp + etp_index
//
// The ranks of a `tp` group share a batch and hold slices of attention and dense weights; dp groups
// have batches of their own. The ranks of an `etp` group hold slices of the same experts; ep groups
// hold different experts.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

enum class MeshAxis { dp, tp, ep, etp, world };

/// Ranks that a mesh may have.
inline constexpr int kMaxRanks = 4096;

/// The largest group whose ranks may reach each other's memory: GPUs of one node, connected all to
/// all.
inline constexpr int kMaxPeers = 8;

constexpr auto enum_names(MeshAxis) {
  return std::array<std::string_view, 5>{"dp", "tp", "ep", "etp", "world"};
}
inline std::string_view axis_name(MeshAxis axis) {
  return enum_names(axis)[static_cast<size_t>(axis)];
}

struct Mesh {
  int dp = 1, tp = 1, ep = 1, etp = 1;

  int size() const { return dp * tp; }
  /// Of a batch of so many sequences, dealt out to the dp groups, what the fullest has.
  int64_t group_batch(int64_t batch) const { return (batch + dp - 1) / dp; }
  /// Ranks along an axis; `world`: all.
  int size(MeshAxis axis) const;
  /// Position of a rank along an axis; `world`: the rank itself.
  int index(MeshAxis axis, int rank) const;
  /// The ranks that differ from `rank` along `axis` only, by ascending position; `rank` included.
  std::vector<int> group(MeshAxis axis, int rank) const;
  /// "dp 1, tp 2, ep 2, etp 1".
  std::string to_string() const;
  bool operator==(const Mesh&) const = default;
};

/// Throws UserError if an axis is not positive, or dp * tp differs from ep * etp.
void validate(const Mesh& mesh);

}  // namespace shunt
