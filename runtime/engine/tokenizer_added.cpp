// Added tokens: reading them, and finding them in a text. Entry points: read_added_tokens(),
// AddedTokenFinder. Tested by tests/runtime/tokenizer_test.cpp against the reference library.
#include <algorithm>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_regex.h"
#include "runtime/engine/tokenizer_unicode.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

constexpr size_t kMaxContent = 65'536;  // bytes

/// Is `character` (one, UTF-8) part of a word? By the Unicode standard, not by Oniguruma's \w.
bool is_word(std::string_view character) {
  static const Regex word(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d])", "single_word");
  return !word.find_all(character).empty();
}

/// The last character of `text` (not empty).
std::string_view last_character(std::string_view text) {
  size_t start = text.size() - 1;
  while (start > 0 && (text[start] & 0xc0) == 0x80) --start;
  return text.substr(start);
}

std::string_view first_character(std::string_view text) {
  return text.substr(0, utf8_step(text.substr(0, 4)).length);
}

/// Start of the white space that ends `text`.
size_t space_before(std::string_view text) {
  while (!text.empty()) {
    const std::string_view last = last_character(text);
    if (!is_white_space(utf8_step(last).code)) break;
    text.remove_suffix(last.size());
  }
  return text.size();
}

/// Length of the white space that starts `text`.
size_t space_after(std::string_view text) {
  size_t length = 0;
  while (length < text.size()) {
    const Utf8Step step = utf8_step(text.substr(length, 4));
    if (!is_white_space(step.code)) break;
    length += step.length;
  }
  return length;
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const Node& node, const Model& model) {
  std::vector<AddedToken> tokens;
  if (node.is_null()) return tokens;
  std::unordered_map<std::string, int32_t> ids;
  int64_t next_id = static_cast<int64_t>(model.size());
  for (const Node& item : node.items()) {
    AddedToken token;
    token.content = item.get("content").string();
    token.id = item.get("id").id();
    token.single_word = item.get("single_word").boolean();
    token.lstrip = item.get("lstrip").boolean();
    token.rstrip = item.get("rstrip").boolean();
    token.normalized = item.get("normalized").boolean();
    token.special = item.get("special").boolean();
    if (token.content.empty()) continue;  // never matches
    if (token.content.size() > kMaxContent) item.fail("content of {} bytes", token.content.size());
    if (!ids.emplace(token.content, token.id).second)
      item.fail("{} is added twice", quote_name(token.content));

    // The reference library does not believe the id: it takes the vocabulary's, else the next free
    // one.
    const auto known = model.token_id(token.content);
    const int64_t expected = known ? *known : next_id;
    if (token.id != expected) {
      item.fail("{} has id {}, but by the vocabulary it must be {}", quote_name(token.content),
                token.id, expected);
    }
    if (!known) ++next_id;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenFinder::AddedTokenFinder(std::vector<const AddedToken*> tokens,
                                   const std::vector<std::string>& contents)
    : tokens_(std::move(tokens)), trie_(1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    size_t at = 0;
    for (char c : contents[i]) {
      const auto it = std::ranges::find(trie_[at].next, c, &std::pair<char, int>::first);
      if (it != trie_[at].next.end()) {
        at = static_cast<size_t>(it->second);
        continue;
      }
      trie_[at].next.emplace_back(c, static_cast<int>(trie_.size()));
      at = trie_.size();
      trie_.emplace_back();
    }
    // Of tokens with the same (normalized) content the first counts; an empty content never
    // matches.
    if (at != 0 && trie_[at].token < 0) trie_[at].token = static_cast<int>(i);
  }
}

std::pair<int, size_t> AddedTokenFinder::longest_at(std::string_view text, size_t start) const {
  std::pair<int, size_t> longest = {-1, 0};
  size_t at = 0;
  for (size_t i = start; i < text.size(); ++i) {
    const auto it = std::ranges::find(trie_[at].next, text[i], &std::pair<char, int>::first);
    if (it == trie_[at].next.end()) break;
    at = static_cast<size_t>(it->second);
    if (trie_[at].token >= 0) longest = {trie_[at].token, i + 1 - start};
  }
  return longest;
}

std::vector<AddedTokenFinder::Piece> AddedTokenFinder::split(std::string_view text) const {
  std::vector<Piece> pieces;
  size_t done = 0;  // text before this is in `pieces`
  size_t at = 0;
  while (at < text.size() && !trie_[0].next.empty()) {
    const auto [index, length] = longest_at(text, at);
    if (index < 0) {
      ++at;
      continue;
    }
    size_t start = at;
    size_t stop = at + length;
    at = stop;  // the search goes on here even if the match is not taken, or takes spaces along
    const AddedToken& token = *tokens_[static_cast<size_t>(index)];
    if (token.single_word) {
      const bool touched = (start > 0 && is_word(last_character(text.substr(0, start)))) ||
                           (stop < text.size() && is_word(first_character(text.substr(stop))));
      if (touched) continue;
    }
    if (token.lstrip) start = std::max(space_before(text.substr(0, start)), done);
    if (token.rstrip) stop += space_after(text.substr(stop));
    if (done < start) pieces.push_back({nullptr, text.substr(done, start - done)});
    pieces.push_back({&token, text.substr(start, stop - start)});
    done = stop;
  }
  if (done < text.size()) pieces.push_back({nullptr, text.substr(done)});
  return pieces;
}

}  // namespace shunt::tokenizer
