// The member "vocab" of a model that is an object of tokens and ids; internal to
// runtime/engine/tokenizer*.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/engine/tokenizer_json.h"

namespace shunt::tokenizer {

class Vocabulary {
 public:
  /// Throws UserError if a token is empty, or two tokens have one id.
  explicit Vocabulary(const Node& node);
  Vocabulary(const Vocabulary&) = delete;

  std::optional<int32_t> find(std::string_view token) const {
    const auto it = ids_.find(token);
    return it == ids_.end() ? std::nullopt : std::optional(it->second);
  }
  size_t size() const { return ids_.size(); }
  /// By id; nullopt where there is none.
  std::vector<std::optional<std::string>> tokens() const;
  /// Tokens and ids, in any order; views into this vocabulary.
  std::vector<std::pair<std::string_view, int32_t>> entries() const {
    return {ids_.begin(), ids_.end()};
  }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  int32_t max_id_ = 0;
};

/// Ids of the tokens "<0x00>" to "<0xFF>" that stand for bytes without a token of their own;
/// nullopt where the vocabulary has none. `find` is token_id() of a model.
class ByteTokens {
 public:
  using Find = std::function<std::optional<int32_t>(std::string_view)>;
  explicit ByteTokens(const Find& find);
  /// Appends the ids of all bytes of `text`; appends nothing and returns false if one has none.
  bool append(std::string_view text, std::vector<int32_t>& ids) const;

 private:
  std::vector<std::optional<int32_t>> ids_;
};

}  // namespace shunt::tokenizer
