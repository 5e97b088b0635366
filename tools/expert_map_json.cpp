// Readers and writers of the two placement files. Entry points: load_expert_map(), load_profile().
// Tested by tests/tools/place_test.cpp.
#include "tools/expert_map_json.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "ir/error.h"
#include "ir/mesh.h"

namespace shunt {

namespace {

using Json = nlohmann::json;
using passes::RoutingProfile;

constexpr int kSchema = 1;

Json parse(const std::string& text) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    user_error("not valid JSON: {}", e.what());
  }
}

const Json& member(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) user_error("key '{}' is missing", key);
  return object.at(key);
}

const Json& list(const Json& object, const char* key) {
  const Json& value = member(object, key);
  if (!value.is_array()) user_error("key '{}' must be a list", key);
  return value;
}

int integer(const Json& value, const std::string& what, int largest) {
  if (!value.is_number_integer() || value.get<double>() < 0 || value.get<double>() > largest) {
    user_error("{} must be an integer from 0 to {}", what, largest);
  }
  return value.get<int>();
}

void check_keys(const Json& object, const std::string& what,
                std::initializer_list<std::string_view> known) {
  if (!object.is_object()) user_error("{} must be an object", what);
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end())
      user_error("{}: unknown key '{}'", what, key);
  }
}

void check_header(const Json& json, const char* kind) {
  if (!json.is_object() || !json.contains("kind") || json.at("kind") != kind) {
    user_error("not a file of this sort: \"kind\" must be \"{}\"", kind);
  }
  if (!json.contains("schema") || json.at("schema") != kSchema) {
    user_error("\"schema\" must be {}, the one this program reads", kSchema);
  }
}

Json replicas_to_json(const std::vector<ExpertReplica>& replicas) {
  if (replicas.size() == 1) return replicas[0].rank;
  Json list = Json::array();
  for (const ExpertReplica& r : replicas) list.push_back({{"rank", r.rank}, {"share", r.share}});
  return list;
}

/// 3, or [1, 3] with equal shares, or [{"rank": 1, "share": 0.25}, ...].
std::vector<ExpertReplica> replicas_from_json(const Json& json, const std::string& what) {
  if (json.is_number()) return {{integer(json, what, kMaxRanks), 1.0}};
  if (!json.is_array()) user_error("{} must be a rank or a list of ranks", what);
  std::vector<ExpertReplica> out;
  for (const Json& item : json) {
    if (item.is_number()) {
      out.push_back({integer(item, what, kMaxRanks), 1.0 / static_cast<double>(json.size())});
      continue;
    }
    check_keys(item, what, {"rank", "share"});
    if (!item.contains("rank") || !item.contains("share") || !item.at("share").is_number()) {
      user_error("{}: a replica is {{\"rank\": integer, \"share\": number}}", what);
    }
    out.push_back({integer(item.at("rank"), what, kMaxRanks), item.at("share").get<double>()});
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  return out;
}

/// Counts that are whole, as recorded ones are, without a fraction.
std::string counts_to_json(const std::vector<double>& counts) {
  Json list = Json::array();
  for (const double c : counts) {
    if (c == std::floor(c) && c < 9e15) {
      list.push_back(static_cast<int64_t>(c));
    } else {
      list.push_back(c);
    }
  }
  return list.dump();
}

std::vector<std::vector<double>> counts_from_json(const Json& json, const std::string& what) {
  if (!json.is_array()) user_error("{} must be a list with a list of counts a layer", what);
  std::vector<std::vector<double>> out;
  for (const Json& layer : json) {
    if (!layer.is_array()) user_error("{} must be a list with a list of counts a layer", what);
    std::vector<double>& counts = out.emplace_back();
    for (const Json& c : layer) {
      if (!c.is_number())
        user_error("{}, layer entry {}: counts must be numbers", what, out.size() - 1);
      counts.push_back(c.get<double>());
    }
  }
  return out;
}

bool is_golden(const Json& json) {
  return json.is_object() && !json.contains("kind") && json.contains("heldout") &&
         json.at("heldout").is_object() && json.at("heldout").contains("expert_tokens");
}

std::string read_file(const std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) user_error("is a folder: give a file");
  std::ifstream stream(file, std::ios::binary);
  if (!stream) user_error("cannot be opened");
  return {std::istreambuf_iterator<char>(stream), {}};
}

template <class Read>
auto with_file_name(const std::filesystem::path& file, Read read) {
  try {
    return read(read_file(file));
  } catch (const UserError& e) {
    user_error("{}: {}", file.string(), e.what());
  }
}

}  // namespace

std::string expert_map_to_json(const ExpertMap& map) {
  std::string out = fmt::format(
      "{{\"schema\": {}, \"kind\": \"expert_map\", \"ranks\": {}, \"nodes\": {}, \"layers\": [",
      kSchema, map.ranks, map.nodes);
  for (size_t i = 0; i < map.layers.size(); ++i) {
    Json experts = Json::array();
    for (const auto& replicas : map.layers[i].experts)
      experts.push_back(replicas_to_json(replicas));
    out += fmt::format("{}\n  {{\"layer\": {}, \"experts\": {}}}", i == 0 ? "" : ",",
                       map.layers[i].layer, experts.dump());
  }
  return out + "\n]}\n";
}

ExpertMap expert_map_from_json(const std::string& text) {
  const Json json = parse(text);
  check_header(json, "expert_map");
  check_keys(json, "the map", {"schema", "kind", "ranks", "nodes", "layers"});
  ExpertMap map;
  map.ranks = integer(member(json, "ranks"), "ranks", kMaxRanks);
  if (json.contains("nodes")) map.nodes = integer(json.at("nodes"), "nodes", kMaxRanks);
  for (const Json& entry : list(json, "layers")) {
    check_keys(entry, "an entry of 'layers'", {"layer", "experts"});
    ExpertMapLayer& layer = map.layers.emplace_back();
    layer.layer = integer(member(entry, "layer"), "layer", 1 << 20);
    for (const Json& e : list(entry, "experts")) {
      layer.experts.push_back(replicas_from_json(
          e, fmt::format("layer {}, expert {}", layer.layer, layer.experts.size())));
    }
  }
  validate(map);
  return map;
}

ExpertMap load_expert_map(const std::filesystem::path& file) {
  return with_file_name(file, expert_map_from_json);
}

std::string profile_to_json(const RoutingProfile& profile) {
  std::string out = fmt::format("{{\"schema\": {}, \"kind\": \"routing_profile\",", kSchema);
  if (!profile.layers.empty()) out += fmt::format(" \"layers\": {},", Json(profile.layers).dump());
  out += " \"windows\": [";
  for (size_t w = 0; w < profile.windows.size(); ++w) {
    out += fmt::format("{}\n  {{\"counts\": [", w == 0 ? "" : ",");
    const auto& counts = profile.windows[w].counts;
    for (size_t l = 0; l < counts.size(); ++l)
      out += (l == 0 ? "\n    " : ",\n    ") + counts_to_json(counts[l]);
    out += "]}";
  }
  return out + "\n]}\n";
}

RoutingProfile profile_from_json(const std::string& text) {
  const Json json = parse(text);
  RoutingProfile profile;
  if (is_golden(json)) {
    profile.windows.push_back(
        {counts_from_json(json.at("heldout").at("expert_tokens"), "heldout.expert_tokens")});
  } else {
    check_header(json, "routing_profile");
    check_keys(json, "the profile", {"schema", "kind", "layers", "windows"});
    if (json.contains("layers")) {
      for (const Json& l : list(json, "layers")) {
        profile.layers.push_back(integer(l, "an entry of 'layers'", 1 << 20));
      }
    }
    for (const Json& window : list(json, "windows")) {
      const std::string what = fmt::format("window {}", profile.windows.size());
      check_keys(window, what, {"counts"});
      profile.windows.push_back({counts_from_json(list(window, "counts"), what)});
    }
  }
  validate(profile);
  return profile;
}

RoutingProfile load_profile(const std::filesystem::path& file) {
  return with_file_name(file, profile_from_json);
}

}  // namespace shunt
