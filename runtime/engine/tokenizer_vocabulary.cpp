// Reads vocabularies. Entry points: Vocabulary, ByteTokens. Tested by
// tests/runtime/tokenizer_test.cpp.
#include "runtime/engine/tokenizer_vocabulary.h"

#include <algorithm>

#include "runtime/checkpoint/strict_json.h"

namespace shunt::tokenizer {

Vocabulary::Vocabulary(const Node& node) {
  if (!node.json().is_object() || node.json().empty())
    node.fail("must be an object of tokens and ids");
  ids_.reserve(node.json().size());
  std::vector<const std::string*> names;  // by id
  for (const auto& item : node.json().items()) {
    const std::string& token = item.key();
    const nlohmann::json& value = item.value();
    const bool valid =
        value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(kMaxId);
    if (!valid) node.fail("token {} must have an id from 0 to {}", quote_name(token), kMaxId);
    if (token.empty()) node.fail("an empty token");
    const auto id = value.get<int32_t>();
    const auto it = ids_.emplace(token, id).first;
    if (static_cast<size_t>(id) >= names.size()) names.resize(static_cast<size_t>(id) + 1);
    const std::string*& name = names[static_cast<size_t>(id)];
    if (name != nullptr) {
      node.fail("tokens {} and {} have the same id {}", quote_name(*name), quote_name(token), id);
    }
    name = &it->first;
    max_id_ = std::max(max_id_, id);
  }
}

std::vector<std::optional<std::string>> Vocabulary::tokens() const {
  std::vector<std::optional<std::string>> tokens(static_cast<size_t>(max_id_) + 1);
  for (const auto& [token, id] : ids_) tokens[static_cast<size_t>(id)] = token;
  return tokens;
}

ByteTokens::ByteTokens(const Find& find) {
  for (int byte = 0; byte < 256; ++byte) ids_.push_back(find(fmt::format("<0x{:02X}>", byte)));
}

bool ByteTokens::append(std::string_view text, std::vector<int32_t>& ids) const {
  const auto id_of = [&](char c) { return ids_[static_cast<uint8_t>(c)]; };
  if (!std::ranges::all_of(text, [&](char c) { return id_of(c).has_value(); })) return false;
  for (char c : text) ids.push_back(*id_of(c));
  return true;
}

}  // namespace shunt::tokenizer
