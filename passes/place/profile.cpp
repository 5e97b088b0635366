// Rules of routing profiles. Entry point: validate(). Tested by tests/tools/place_test.cpp, through
// the JSON reader.
#include "passes/place/profile.h"

#include <cmath>

#include "ir/error.h"

namespace shunt::passes {

std::vector<std::vector<double>> RoutingProfile::total() const {
  std::vector<std::vector<double>> sum = windows.at(0).counts;
  for (size_t w = 1; w < windows.size(); ++w) {
    for (size_t l = 0; l < sum.size(); ++l) {
      for (size_t e = 0; e < sum[l].size(); ++e) sum[l][e] += windows[w].counts[l][e];
    }
  }
  return sum;
}

void validate(const RoutingProfile& profile) {
  if (profile.windows.empty()) user_error("the profile has no windows");
  const auto& first = profile.windows[0].counts;
  if (first.empty()) user_error("the profile has no layers");
  if (!profile.layers.empty() && profile.layers.size() != first.size()) {
    user_error("the profile names {} layers and counts {}", profile.layers.size(), first.size());
  }
  for (size_t i = 0; i < profile.layers.size(); ++i) {
    if (profile.layers[i] < 0 || (i > 0 && profile.layers[i] <= profile.layers[i - 1])) {
      user_error("the profile's layer numbers must ascend from 0");
    }
  }
  for (size_t w = 0; w < profile.windows.size(); ++w) {
    const auto& counts = profile.windows[w].counts;
    if (counts.size() != first.size()) {
      user_error("window {} has {} layers, window 0 has {}", w, counts.size(), first.size());
    }
    for (size_t l = 0; l < counts.size(); ++l) {
      if (counts[l].empty() || counts[l].size() != first[l].size()) {
        user_error("window {}, layer entry {}: {} experts, window 0 has {}", w, l, counts[l].size(),
                   first[l].size());
      }
      for (double c : counts[l]) {
        if (!std::isfinite(c) || c < 0) {
          user_error("window {}, layer entry {}: counts must be finite and not negative", w, l);
        }
      }
    }
  }
}

}  // namespace shunt::passes
