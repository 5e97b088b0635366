// An architecture as a list of named values, for people and for comparisons: what
// `inspect --explain` shows of a config's keys.
#pragma once

#include <string>
#include <vector>

#include "frontends/architecture.h"

namespace shunt {

/// A value of the architecture, or of all its layers.
struct Attribute {
  std::string name;                 // "vocab_size", "layer.attention.heads"
  std::vector<std::string> values;  // one; or one a layer, "" where the layer has no such thing
  bool operator==(const Attribute&) const = default;

  /// "16"; of layers that differ "512 in 3 layers, 0 in 3".
  std::string text() const;
};

/// In the order of the structs in architecture.h; names of checkpoint tensors are left out.
std::vector<Attribute> describe(const Architecture& architecture);

}  // namespace shunt
