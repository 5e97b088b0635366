// How often each expert was chosen, layer by layer: what expert placement is planned from.
#pragma once

#include <vector>

namespace shunt::passes {

/// Routes counted over one stretch of time; counts[i][e] is that of expert e of the profile's i-th
/// layer.
struct RoutingWindow {
  std::vector<std::vector<double>> counts;
};

/// Expert counts of every MoE layer, over one window or several that follow each other.
struct RoutingProfile {
  std::vector<int>
      layers;  // numbers in the model, ascending; empty: not known (then the i-th MoE layer)
  std::vector<RoutingWindow> windows;  // at least one

  /// Counts summed over all windows.
  std::vector<std::vector<double>> total() const;
};

/// Throws UserError unless there are windows, all of the same layers and experts, and all counts
/// are finite and not negative.
void validate(const RoutingProfile& profile);

}  // namespace shunt::passes
