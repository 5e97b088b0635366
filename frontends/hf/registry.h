// The families: model_type of config.json -> a function that reads the config into an Architecture.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "frontends/architecture.h"
#include "frontends/hf/config.h"

namespace shunt::hf {

struct Family {
  std::string_view model_type;
  Architecture (*read)(const Config& config);
};

const std::vector<Family>& all_families();
/// Throws UserError that lists the known families.
const Family& find_family(const Config& config);

}  // namespace shunt::hf
