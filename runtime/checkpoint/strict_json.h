// JSON from files that nobody vouches for: bounded size and depth, no duplicate keys, errors in one
// line.
//
// For callers that want a tree (config.json, tokenizer.json, shard indexes). Include
// <nlohmann/json.hpp> in the .cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace shunt {

struct JsonLimits {
  int64_t max_bytes = 100'000'000;
  int max_depth = 64;
};

/// Parses `text`. Throws UserError that begins with `file` if it is no JSON, too large, too deeply
/// nested, or has an object with two equal keys.
nlohmann::json parse_strict_json(std::string_view text, const std::string& file,
                                 JsonLimits limits = {});

/// Reads a whole regular file of at most `max_bytes`. Throws UserError (missing, a folder, too
/// large, unreadable).
std::string read_text_file(const std::filesystem::path& path, int64_t max_bytes);

/// `name` in single quotes for an error message: control characters escaped, cut at 120 bytes,
/// always one line.
std::string quote_name(std::string_view name);

}  // namespace shunt
