// Byte-pair encoding. Entry point: make_bpe(). Tested by tests/runtime/tokenizer_test.cpp against
// the reference library.
#include <algorithm>
#include <queue>
#include <unordered_map>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using Vocabulary = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

struct Merge {
  int32_t rank;  // lower first
  int32_t id;    // of the joined token
};

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

/// One symbol of the word being merged: a doubly linked list within a vector.
struct Symbol {
  int32_t id;
  int32_t previous;  // -1: none
  int32_t next;      // -1: none
  bool gone = false;
};

/// A pair that may be merged; stale if its symbols have changed since.
struct Candidate {
  int32_t rank;
  int32_t position;
  int32_t id;
  /// Top of the heap: lowest rank, leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

class Bpe : public Model {
 public:
  explicit Bpe(const Node& node) {
    check_options(node);
    read_vocabulary(node.get("vocab"));
    read_merges(node.get("merges"));
    ignore_merges_ = node.get("ignore_merges").boolean_or(false);
    fuse_unknown_ = node.get("fuse_unk").boolean_or(false);
    if (const Node unknown = node.get("unk_token"); !unknown.is_null()) {
      unknown_ = token_id(unknown.string());
      if (!unknown_) unknown.fail("{} is not in the vocabulary", quote_name(unknown.string()));
    }
  }

  std::optional<int32_t> token_id(std::string_view token) const override {
    const auto it = ids_.find(token);
    return it == ids_.end() ? std::nullopt : std::optional(it->second);
  }
  size_t size() const override { return ids_.size(); }
  const std::vector<std::string>& tokens() const override { return tokens_; }

  void tokenize(const std::vector<std::string>& words, std::vector<int32_t>& ids) const override {
    // Most words of a text come again: the ids of a first occurrence are copied. Keys point into
    // `words`.
    std::unordered_map<std::string_view, std::pair<size_t, size_t>> seen;
    std::vector<Symbol> symbols;
    for (const std::string& word : words) {
      const size_t start = ids.size();
      const auto [it, fresh] = seen.try_emplace(word, start, 0);
      if (!fresh) {
        const auto [from, count] = it->second;
        for (size_t i = 0; i < count; ++i) ids.push_back(ids[from + i]);
        continue;
      }
      tokenize_word(word, symbols, ids);
      it->second.second = ids.size() - start;
    }
  }

 private:
  static void check_options(const Node& node) {
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Node option = node.get(key);
      if (!option.is_null() && !option.string().empty())
        option.unsupported("BPE with " + std::string(key));
    }
    if (node.get("byte_fallback").boolean_or(false))
      node.get("byte_fallback").unsupported("BPE with byte_fallback");
    const Node dropout = node.get("dropout");
    if (!dropout.is_null() &&
        !(dropout.json().is_number() && dropout.json().get<double>() == 0.0)) {
      dropout.unsupported("BPE with dropout");  // it makes the ids random
    }
  }

  void read_vocabulary(const Node& node) {
    if (!node.json().is_object() || node.json().empty())
      node.fail("must be an object of tokens and ids");
    ids_.reserve(node.json().size());
    for (const auto& [token, value] : node.json().items()) {
      const bool valid =
          value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(kMaxId);
      if (!valid) node.fail("token {} must have an id from 0 to {}", quote_name(token), kMaxId);
      const auto id = value.get<int32_t>();
      if (token.empty()) node.fail("an empty token");
      if (static_cast<size_t>(id) >= tokens_.size()) tokens_.resize(static_cast<size_t>(id) + 1);
      std::string& name = tokens_[static_cast<size_t>(id)];
      if (!name.empty())
        node.fail("tokens {} and {} have the same id {}", quote_name(name), quote_name(token), id);
      name = token;
      ids_.emplace(token, id);
    }
  }

  void read_merges(const Node& node) {
    if (!node.json().is_array()) node.fail("must be a list");
    merges_.reserve(node.json().size());
    int32_t rank = 0;
    for (const auto& merge : node.json()) {
      const auto [left, right] = merge_parts(node, merge, rank);
      const std::optional<int32_t> ids[3] = {token_id(left), token_id(right),
                                             token_id(left + right)};
      if (!ids[0] || !ids[1] || !ids[2]) {
        node.fail("entry {}: {}, {} or both together are not in the vocabulary", rank,
                  quote_name(left), quote_name(right));
      }
      merges_.insert_or_assign(pair_key(*ids[0], *ids[1]), Merge{rank, *ids[2]});
      ++rank;
    }
  }

  /// "a b" or ["a", "b"].
  static std::pair<std::string, std::string> merge_parts(const Node& node,
                                                         const nlohmann::json& merge,
                                                         int32_t rank) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      return {merge[0].get<std::string>(), merge[1].get<std::string>()};
    }
    if (!merge.is_string())
      node.fail("entry {} must be \"left right\" or [\"left\", \"right\"]", rank);
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      node.fail("entry {}: {} must be two tokens with one space between", rank, quote_name(text));
    }
    return {text.substr(0, space), text.substr(space + 1)};
  }

  void tokenize_word(std::string_view word, std::vector<Symbol>& symbols,
                     std::vector<int32_t>& ids) const {
    if (ignore_merges_) {
      if (const auto id = token_id(word)) {
        ids.push_back(*id);
        return;
      }
    }
    symbols.clear();
    characters(word, symbols);
    merge(symbols);
    for (const Symbol& symbol : symbols) {
      if (!symbol.gone) ids.push_back(symbol.id);
    }
  }

  void characters(std::string_view word, std::vector<Symbol>& symbols) const {
    bool unknown_before = false;
    for (size_t at = 0; at < word.size();) {
      const std::string_view character = word.substr(at, utf8_step(word.substr(at, 4)).length);
      at += character.size();
      std::optional<int32_t> id = token_id(character);
      const bool unknown = !id;
      if (unknown) {
        if (!unknown_)
          user_error(
              "the tokenizer's vocabulary has no token for the character {} of the text; "
              "take it out, or pass ids (--ids) instead of text",
              quote_name(character));
        if (fuse_unknown_ && unknown_before) continue;
        id = unknown_;
      }
      unknown_before = unknown;
      const auto index = static_cast<int32_t>(symbols.size());
      if (index > 0) symbols.back().next = index;
      symbols.push_back({*id, index - 1, -1});
    }
  }

  /// Merges pairs, lowest rank first and of equal ranks leftmost first, until no pair is left that
  /// can be merged.
  void merge(std::vector<Symbol>& symbols) const {
    std::priority_queue<Candidate> queue;
    auto offer = [&](int32_t position) {
      if (position < 0 || symbols[static_cast<size_t>(position)].next < 0) return;
      const Symbol& left = symbols[static_cast<size_t>(position)];
      const auto it = merges_.find(pair_key(left.id, symbols[static_cast<size_t>(left.next)].id));
      if (it != merges_.end()) queue.push({it->second.rank, position, it->second.id});
    };
    for (size_t i = 0; i < symbols.size(); ++i) offer(static_cast<int32_t>(i));
    while (!queue.empty()) {
      const Candidate top = queue.top();
      queue.pop();
      Symbol& left = symbols[static_cast<size_t>(top.position)];
      if (left.gone || left.next < 0) continue;
      Symbol& right = symbols[static_cast<size_t>(left.next)];
      const auto it = merges_.find(pair_key(left.id, right.id));
      if (it == merges_.end() || it->second.id != top.id) continue;  // stale
      left.id = top.id;
      left.next = right.next;
      right.gone = true;
      if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = top.position;
      offer(left.previous);
      offer(top.position);
    }
  }

  Vocabulary ids_;
  std::vector<std::string> tokens_;  // by id
  std::unordered_map<uint64_t, Merge> merges_;
  std::optional<int32_t> unknown_;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace

std::unique_ptr<Model> make_bpe(const Node& node) { return std::make_unique<Bpe>(node); }

}  // namespace shunt::tokenizer
