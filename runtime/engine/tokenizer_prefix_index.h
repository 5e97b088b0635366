// Finds the tokens that a text begins with; internal to runtime/engine/tokenizer*.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace shunt::tokenizer {

/// The tokens in alphabetic order, narrowed down byte by byte: what a tree would do, without one.
class PrefixIndex {
 public:
  /// Tokens and ids; the texts must outlive it. Of equal tokens the one with the highest id counts.
  explicit PrefixIndex(std::vector<std::pair<std::string_view, int32_t>> tokens)
      : tokens_(std::move(tokens)) {
    std::ranges::sort(tokens_, [](const Token& a, const Token& b) {
      return a.first != b.first ? a.first < b.first : a.second > b.second;
    });
    const auto same = [](const Token& a, const Token& b) { return a.first == b.first; };
    tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same), tokens_.end());
    for (size_t byte = 0; byte < first_.size(); ++byte) {
      first_[byte] = narrow({0, tokens_.size()}, 0, static_cast<uint8_t>(byte));
    }
  }

  std::optional<int32_t> find(std::string_view token) const {
    const auto it = std::ranges::lower_bound(tokens_, token, {}, &Token::first);
    return it != tokens_.end() && it->first == token ? std::optional(it->second) : std::nullopt;
  }

  /// Calls f(id, length) for every token that `text` begins with, the shortest first; not for an
  /// empty one.
  template <class F>
  void each_prefix(std::string_view text, F&& f) const {
    Range range;
    for (size_t depth = 0; depth < text.size(); ++depth) {
      const auto byte = static_cast<uint8_t>(text[depth]);
      range = depth == 0 ? first_[byte] : narrow(range, depth, byte);
      if (range.begin == range.end) return;
      const Token& token = tokens_[range.begin];
      if (token.first.size() == depth + 1) f(token.second, depth + 1);
    }
  }

 private:
  using Token = std::pair<std::string_view, int32_t>;
  struct Range {
    size_t begin = 0;
    size_t end = 0;
  };

  /// Those of `range` (which agree before `depth`) that have `byte` at `depth`.
  Range narrow(Range range, size_t depth, uint8_t byte) const {
    const auto at = [&](const Token& token) {
      return token.first.size() > depth ? static_cast<uint8_t>(token.first[depth]) : -1;
    };
    const auto all = tokens_.begin();
    const auto end = all + static_cast<std::ptrdiff_t>(range.end);
    const auto first = std::ranges::lower_bound(all + static_cast<std::ptrdiff_t>(range.begin), end,
                                                static_cast<int>(byte), {}, at);
    const auto last = std::ranges::upper_bound(first, end, static_cast<int>(byte), {}, at);
    return {static_cast<size_t>(first - all), static_cast<size_t>(last - all)};
  }

  std::vector<Token> tokens_;
  std::array<Range, 256> first_;  // by first byte
};

}  // namespace shunt::tokenizer
