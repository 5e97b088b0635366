// What Config's files share: the parsed file, and which of its keys were read.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "frontends/hf/config.h"

namespace shunt::hf {

struct Config::Document {
  nlohmann::json root;
  std::string file;
  mutable std::set<std::string, std::less<>> read;  // paths of keys that were asked for
  mutable std::map<std::string, std::set<std::string>> spellings;  // of a path: keys that mean it
};

}  // namespace shunt::hf
