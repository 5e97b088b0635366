// JSON of expert maps and routing profiles (formats: docs/placement.md).
#pragma once

#include <filesystem>
#include <string>

#include "ir/expert_map.h"
#include "passes/place/profile.h"

namespace shunt {

/// One line a layer. The same map gives the same text.
std::string expert_map_to_json(const ExpertMap& map);
/// Strict and validated; UserError says which key, layer and expert.
ExpertMap expert_map_from_json(const std::string& text);
/// As above; errors name the file.
ExpertMap load_expert_map(const std::filesystem::path& file);

std::string profile_to_json(const passes::RoutingProfile& profile);
/// A profile, or a golden file with `heldout.expert_tokens`: a list of counts a MoE layer.
passes::RoutingProfile profile_from_json(const std::string& text);
passes::RoutingProfile load_profile(const std::filesystem::path& file);

}  // namespace shunt
