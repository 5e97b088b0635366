// An Explanation for people, and as JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "frontends/explain.h"

namespace shunt {

/// Lines; tensors that differ in the number of their layer only share one.
std::string explain_text(const Explanation& explanation);
/// Every tensor on its own.
nlohmann::ordered_json explain_json(const Explanation& explanation);

}  // namespace shunt
