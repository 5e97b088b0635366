// Byte-pair encoding. Entry point: make_bpe(). Tested by tests/runtime/tokenizer_test.cpp against
// the reference library.
#include <algorithm>
#include <queue>
#include <unordered_map>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_utf8.h"
#include "runtime/engine/tokenizer_vocabulary.h"

namespace shunt::tokenizer {

namespace {

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
  explicit Bpe(const Node& node) : vocabulary_(node.get("vocab")) {
    check_options(node);
    read_merges(node.get("merges"));
    ignore_merges_ = node.get("ignore_merges").boolean_or(false);
    fuse_unknown_ = node.get("fuse_unk").boolean_or(false);
    if (node.get("byte_fallback").boolean_or(false)) {
      bytes_.emplace([&](std::string_view token) { return token_id(token); });
    }
    if (const Node unknown = node.get("unk_token"); !unknown.is_null()) {
      unknown_ = token_id(unknown.string());
      if (!unknown_) unknown.fail("{} is not in the vocabulary", quote_name(unknown.string()));
    }
  }

  std::optional<int32_t> token_id(std::string_view token) const override {
    return vocabulary_.find(token);
  }
  size_t size() const override { return vocabulary_.size(); }
  std::vector<std::optional<std::string>> tokens() const override { return vocabulary_.tokens(); }

  void tokenize(std::string_view word, std::vector<int32_t>& ids) const override {
    if (ignore_merges_) {
      if (const auto id = token_id(word)) {
        ids.push_back(*id);
        return;
      }
    }
    std::vector<int32_t> initial;
    characters(word, initial);
    std::vector<Symbol> symbols = chain(initial);
    merge(symbols);
    for (const Symbol& symbol : symbols) {
      if (!symbol.gone) ids.push_back(symbol.id);
    }
  }

 private:
  static void check_options(const Node& node) {
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Node option = node.get(key);
      if (!option.is_null() && !option.string().empty())
        option.unsupported("BPE with " + std::string(key));
    }
    const Node dropout = node.get("dropout");
    if (!dropout.is_null() &&
        !(dropout.json().is_number() && dropout.json().get<double>() == 0.0)) {
      dropout.unsupported("BPE with dropout");  // it makes the ids random
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

  /// Appends the ids that merging starts from: of each character, else of its bytes, else the
  /// unknown token.
  void characters(std::string_view word, std::vector<int32_t>& ids) const {
    bool unknown = false;  // is pending: others may fuse with it
    const auto add_unknown = [&] {
      if (unknown) ids.push_back(*unknown_);
      unknown = false;
    };
    for_each_character(word, [&](char32_t, std::string_view character) {
      if (const auto id = token_id(character)) {
        add_unknown();
        ids.push_back(*id);
      } else if (bytes_ && bytes_->append(character, ids)) {
        return;  // before a pending unknown token, as in the reference library
      } else {
        if (!unknown_) no_token_for(character);
        if (!fuse_unknown_) add_unknown();
        unknown = true;
      }
    });
    add_unknown();
  }

  static std::vector<Symbol> chain(const std::vector<int32_t>& ids) {
    std::vector<Symbol> symbols;
    symbols.reserve(ids.size());
    for (int32_t id : ids) {
      const auto index = static_cast<int32_t>(symbols.size());
      if (index > 0) symbols.back().next = index;
      symbols.push_back({id, index - 1, -1});
    }
    return symbols;
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

  Vocabulary vocabulary_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::optional<ByteTokens> bytes_;  // with byte_fallback
  std::optional<int32_t> unknown_;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace

std::unique_ptr<Model> make_bpe(const Node& node) { return std::make_unique<Bpe>(node); }

}  // namespace shunt::tokenizer
