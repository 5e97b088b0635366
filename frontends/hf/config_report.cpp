// Which keys of config.json were read, which not and why, and what reading it otherwise would give.
// Entry points: Config::finish, Config::report, Config::variations. Tested by
// tests/frontends/config_test.cpp and explain_test.cpp.
#include <fmt/ranges.h>

#include "frontends/hf/config_document.h"
#include "frontends/hf/inert_keys.h"
#include "ir/error.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt::hf {

using nlohmann::json;
using State = Config::KeyReport::State;

namespace {

/// A value that says "this feature is off" whatever the key means.
bool is_neutral(const json& value) {
  return value.is_null() || value == false ||
         ((value.is_array() || value.is_object() || value.is_string()) && value.empty()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty());
}

std::string short_text(const json& value) {
  constexpr size_t kShown = 60;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  return text;
}

/// Other values of the kind of `value`: some of them will be legal, whatever the key means.
std::vector<json> others(const json& value) {
  if (value.is_boolean()) return {!value.get<bool>()};
  if (value.is_number_integer()) {
    const auto n = value.get<int64_t>();
    // Sizes divide each other; counts and ids have neighbours.
    std::vector<json> more = {0, 1, -1};
    constexpr int64_t kLarge = int64_t{1} << 40;
    if (n > -kLarge && n < kLarge) more.insert(more.end(), {2 * n, n / 2, n + 1, n - 1});
    return more;
  }
  if (value.is_number()) {
    const auto x = value.get<double>();
    return {0.5 * x, 2 * x, 0.25, 2.5};
  }
  if (value.is_string()) {
    std::vector<json> more;
    for (const char* word : {"silu", "relu", "float32", "float16", "linear", "llama3", "yarn",
                             "rmsnorm", "gated_silu", "residual"}) {
      if (value != word) more.emplace_back(word);
    }
    return more;
  }
  std::vector<json> more;
  if (value.is_array() && !value.empty()) {
    const auto& list = value.get_ref<const json::array_t&>();
    more.emplace_back(json::array_t(list.rbegin(), list.rend()));
    json shorter = value;
    shorter.erase(shorter.size() - 1);
    more.push_back(std::move(shorter));
    for (const json& first : others(value[0])) {
      more.push_back(value);
      more.back()[0] = first;
    }
  }
  return more;
}

}  // namespace

std::string Config::KeyReport::name() const { return fmt::format("{}", fmt::join(path, ".")); }

std::vector<Config::KeyReport> Config::report() const {
  std::vector<KeyReport> all;
  const json& node = *static_cast<const json*>(node_);
  for (const auto& [key, value] : node.items()) {
    const std::string path = prefix_ + key;
    const bool read = document_->read.contains(path);
    if (read && value.is_object() && document_->read.contains(path + ".")) {
      for (KeyReport& inner : Config(document_, &value, path + ".").report()) {
        inner.path.insert(inner.path.begin(), key);
        all.push_back(std::move(inner));
      }
      continue;
    }
    KeyReport report = {{key}, short_text(value)};
    const InertKey* inert = prefix_.empty() ? find_inert_key(key) : nullptr;
    if (read) {
      report.state = State::read;
    } else if (inert != nullptr) {
      report.state = State::inert;
      report.remark = inert->remark && !is_neutral(value);
    } else {
      report.state = is_neutral(value) ? State::neutral : State::unknown;
    }
    all.push_back(std::move(report));
  }
  return all;
}

std::vector<std::string> Config::finish(std::string_view family) const {
  std::vector<std::string> ignored;
  for (const KeyReport& key : report()) {
    if (key.remark) ignored.push_back(prefix_ + key.name());
    if (key.state != State::unknown) continue;
    user_error("{}: key {} is not understood by family '{}' and could change the result",
               document_->file, quote_name(prefix_ + key.name()), family);
  }
  return ignored;
}

std::vector<Config> Config::variations(const std::vector<std::string>& path) const {
  const auto parent = [&](json& root) {
    json* node = &root;
    for (size_t i = 0; i + 1 < path.size(); ++i) node = &node->at(path[i]);
    return node;
  };
  std::vector<json> values = others(parent(document_->root)->at(path.back()));
  values.emplace_back(nullptr);                // counts as missing
  std::set<std::string> keys = {path.back()};  // all spellings: those that are there must agree
  const auto spellings = document_->spellings.find(fmt::format("{}", fmt::join(path, ".")));
  if (spellings != document_->spellings.end()) keys = spellings->second;
  std::vector<Config> copies;
  for (const json& value : values) {
    auto copy = std::make_shared<Document>(Document{document_->root, document_->file, {}, {}});
    json& object = *parent(copy->root);
    for (const std::string& key : keys) {
      if (object.contains(key)) object[key] = value;
    }
    const void* root = &copy->root;
    copies.push_back(Config(std::move(copy), root, ""));
  }
  return copies;
}

}  // namespace shunt::hf
