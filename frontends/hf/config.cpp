// Reading of config.json. Entry point: Config::read. Tested by tests/frontends/config_test.cpp;
// fuzzed by tests/fuzz/fuzz_config.cpp.
#include "frontends/hf/config.h"

#include <algorithm>
#include <cmath>

#include "frontends/hf/config_document.h"
#include "ir/error.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt::hf {

using nlohmann::json;

namespace {

constexpr int64_t kMaxConfigBytes = 4 << 20;
constexpr int kMaxConfigDepth = 16;
constexpr size_t kMaxListLength = 65536;

std::string_view kind_of(const json& value) { return value.type_name(); }

/// Moves the keys of `text_config` to the top level. The wrapper's own model_type and the like give
/// way; any other key that both have must have the same value.
void unwrap_text_config(json& root, const std::string& file) {
  const auto wrapped = root.find("text_config");
  if (wrapped == root.end() || !wrapped->is_object()) return;
  json inner = std::move(*wrapped);
  root.erase("text_config");
  for (auto& [key, value] : inner.items()) {
    const auto outer = root.find(key);
    const bool inner_wins =
        key == "model_type" || key == "architectures" || key == "dtype" || key == "torch_dtype";
    if (outer != root.end() && !inner_wins && !outer->is_null() && !value.is_null() &&
        *outer != value) {
      user_error("{}: key {} has two values, at the top level and in text_config", file,
                 quote_name(key));
    }
    if (!value.is_null() || outer == root.end()) root[key] = std::move(value);
  }
}

}  // namespace

/// A value and the spelling it was found under; value is nullptr if absent.
struct Config::Found {
  const json* value = nullptr;
  const char* key = "";
};

Config Config::read(const std::filesystem::path& file) {
  return parse(read_text_file(file, kMaxConfigBytes), file.string());
}

Config Config::parse(std::string_view text, const std::string& file) {
  auto document = std::make_shared<Document>();
  document->root = parse_strict_json(text, file, {kMaxConfigBytes, kMaxConfigDepth});
  document->file = file;
  if (!document->root.is_object()) user_error("{}: not a JSON object", file);
  unwrap_text_config(document->root, file);
  const void* root = &document->root;
  return Config(std::move(document), root, "");
}

const std::string& Config::file() const { return document_->file; }

void Config::fail(std::string_view key, std::string_view message) const {
  user_error("{}: key {}: {}", document_->file, quote_name(prefix_ + std::string(key)), message);
}

Config::Found Config::find(Keys keys) const {
  const json& node = *static_cast<const json*>(node_);
  Found found;
  for (const char* key : keys) {
    document_->read.insert(prefix_ + key);
    document_->spellings[prefix_ + key].insert(keys.begin(), keys.end());
    const auto it = node.find(key);
    if (it == node.end() || it->is_null()) continue;
    if (found.value != nullptr && *found.value != *it) {
      fail(key, fmt::format("differs from '{}', which means the same", found.key));
    }
    if (found.value == nullptr) found = {&*it, key};
  }
  return found;
}

Config::Found Config::require(Keys keys) const {
  const Found found = find(keys);
  if (found.value == nullptr) fail(*keys.begin(), "is missing");
  return found;
}

bool Config::has(const char* key) const {
  const json& node = *static_cast<const json*>(node_);
  const auto it = node.find(key);
  return it != node.end() && !it->is_null();
}

int64_t Config::integer(Keys keys, int64_t min, int64_t max) const {
  const auto [found, key] = require(keys);
  const json* value = found;
  if (value->is_array() && !value->empty()) {
    const json& first = value->front();
    if (std::ranges::all_of(*value, [&](const json& x) { return x == first; })) value = &first;
  }
  // 4096.0 is written by some converters; 4096.5 is a mistake.
  const double real = value->is_number() ? value->get<double>() : 0;
  if (!value->is_number() || real != std::floor(real)) {
    fail(key, fmt::format("expected an integer, found {}",
                          value->is_number() ? "a fraction" : kind_of(*value)));
  }
  if (!(real >= static_cast<double>(min) && real <= static_cast<double>(max))) {
    fail(key, fmt::format("{} is outside {} ... {}", real, min, max));
  }
  return value->is_number_float() ? static_cast<int64_t>(real) : value->get<int64_t>();
}

int64_t Config::integer_or(Keys keys, int64_t fallback, int64_t min, int64_t max) const {
  return find(keys).value == nullptr ? fallback : integer(keys, min, max);
}

double Config::number(Keys keys, Range range) const {
  const auto [value, key] = require(keys);
  if (!value->is_number()) fail(key, fmt::format("expected a number, found {}", kind_of(*value)));
  const double real = value->get<double>();
  if (!(std::isfinite(real) && real >= range.min && real <= range.max)) {
    fail(key, fmt::format("{} is outside {} ... {}", real, range.min, range.max));
  }
  return real;
}

double Config::number_or(Keys keys, double fallback, Range range) const {
  return find(keys).value == nullptr ? fallback : number(keys, range);
}

bool Config::boolean_or(Keys keys, bool fallback) const {
  const auto [value, key] = find(keys);
  if (value == nullptr) return fallback;
  if (!value->is_boolean())
    fail(key, fmt::format("expected true or false, found {}", kind_of(*value)));
  return value->get<bool>();
}

std::string Config::text(Keys keys) const {
  const auto [value, key] = require(keys);
  if (!value->is_string()) fail(key, fmt::format("expected a string, found {}", kind_of(*value)));
  return value->get<std::string>();
}

std::string Config::text_or(Keys keys, std::string fallback) const {
  return find(keys).value == nullptr ? std::move(fallback) : text(keys);
}

std::vector<int64_t> Config::integers(Keys keys) const {
  const auto [value, key] = find(keys);
  if (value == nullptr) return {};
  const json list = value->is_array() ? *value : json::array({*value});
  if (list.size() > kMaxListLength)
    fail(key, fmt::format("a list of {} entries is too long", list.size()));
  std::vector<int64_t> out;
  for (const json& entry : list) {
    const bool too_large = entry.is_number_unsigned() && entry.get<uint64_t>() > uint64_t{1} << 62;
    if (!entry.is_number_integer() || too_large) {
      fail(key, fmt::format("expected an integer or a list of integers, found {}",
                            too_large ? "an absurdly large number" : kind_of(entry)));
    }
    out.push_back(entry.get<int64_t>());
  }
  return out;
}

std::vector<double> Config::numbers(Keys keys) const {
  const auto [value, key] = find(keys);
  if (value == nullptr) return {};
  if (!value->is_array())
    fail(key, fmt::format("expected a list of numbers, found {}", kind_of(*value)));
  if (value->size() > kMaxListLength)
    fail(key, fmt::format("a list of {} entries is too long", value->size()));
  std::vector<double> out;
  for (const json& entry : *value) {
    if (!entry.is_number())
      fail(key, fmt::format("expected a list of numbers, found {}", kind_of(entry)));
    out.push_back(entry.get<double>());
  }
  return out;
}

std::vector<std::string> Config::texts(Keys keys) const {
  const auto [value, key] = find(keys);
  if (value == nullptr) return {};
  if (!value->is_array())
    fail(key, fmt::format("expected a list of strings, found {}", kind_of(*value)));
  if (value->size() > kMaxListLength)
    fail(key, fmt::format("a list of {} entries is too long", value->size()));
  std::vector<std::string> out;
  for (const json& entry : *value) {
    if (!entry.is_string())
      fail(key, fmt::format("expected a list of strings, found {}", kind_of(entry)));
    out.push_back(entry.get<std::string>());
  }
  return out;
}

std::vector<std::string> Config::repeated_texts(const char* key) const {
  const auto [value, spelling] = find({key});
  std::vector<std::string> out;
  if (value == nullptr) return out;
  const auto require_that = [&](bool ok) {
    if (!ok) fail(key, "is not a list of [list of strings, count] pairs");
  };
  require_that(value->is_array());
  for (const json& entry : *value) {
    require_that(entry.is_array() && entry.size() == 2 && entry[0].is_array() &&
                 entry[1].is_number_unsigned());
    const auto count = entry[1].get<uint64_t>();
    require_that(count <= kMaxLayers && entry[0].size() <= kMaxLayers);
    for (uint64_t i = 0; i < count; ++i) {
      for (const json& name : entry[0]) {
        require_that(name.is_string() && out.size() < kMaxListLength);
        out.push_back(name.get<std::string>());
      }
    }
  }
  return out;
}

std::optional<Config> Config::object(const char* key) const {
  const auto [value, spelling] = find({key});
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) fail(key, fmt::format("expected an object, found {}", kind_of(*value)));
  document_->read.insert(prefix_ + key + ".");
  return Config(document_, value, prefix_ + key + ".");
}

}  // namespace shunt::hf
