// Keys of config.json that one family has alone, or whose values hang together. Internal to
// random_config.cpp.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/meshes/dice.h"

namespace shunt {

/// What a config's sizes were drawn to be.
struct DrawnSizes {
  int64_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0, hidden = 0, experts = 0, k = 0;
};

/// One of `types` for each layer.
std::vector<std::string> of_layers(int64_t layers, const std::vector<std::string>& types,
                                   Dice& dice);
/// Numbers of layers, each with a chance of one in `n`.
std::vector<int64_t> some_layers(int64_t layers, int64_t n, Dice& dice);

void draw_family_keys(const std::string& family, const DrawnSizes& sizes, Dice& dice,
                      nlohmann::json& config);

}  // namespace shunt
