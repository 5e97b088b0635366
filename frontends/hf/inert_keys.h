// Keys of config.json without effect on inference: what trained the model, how a framework ran it,
// names.
#pragma once

#include <string_view>

namespace shunt::hf {

struct InertKey {
  std::string_view name;
  bool remark = false;  // worth a line to the user when it is set
};

/// nullptr if the key may matter.
const InertKey* find_inert_key(std::string_view name);

}  // namespace shunt::hf
