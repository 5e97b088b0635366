// Unigram: the segmentation with the highest sum of scores. Entry point: make_unigram(). Tested by
// tests/runtime/tokenizer_test.cpp against the reference library.
#include <algorithm>
#include <limits>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_prefix_index.h"
#include "runtime/engine/tokenizer_utf8.h"
#include "runtime/engine/tokenizer_vocabulary.h"

namespace shunt::tokenizer {

namespace {

constexpr double kUnknownPenalty = 10.0;  // below the lowest score

struct Pieces {
  std::vector<std::string> tokens;
  std::vector<double> scores;
  double lowest = std::numeric_limits<double>::infinity();

  std::vector<std::pair<std::string_view, int32_t>> with_ids() const {
    std::vector<std::pair<std::string_view, int32_t>> all;
    for (const std::string& token : tokens) all.emplace_back(token, all.size());
    return all;
  }
};

Pieces read_pieces(const Node& node) {
  Pieces pieces;
  const std::vector<Node> items = node.items();
  if (items.empty()) node.fail("must be a list of tokens and scores");
  if (items.size() > static_cast<size_t>(kMaxId)) node.fail("more than {} tokens", kMaxId);
  for (const Node& item : items) {
    const std::vector<Node> parts = item.items();
    if (parts.size() != 2) item.fail("must be [token, score]");
    pieces.tokens.push_back(parts[0].string());
    pieces.scores.push_back(parts[1].number());
    pieces.lowest = std::min(pieces.lowest, pieces.scores.back());
  }
  return pieces;
}

class Unigram : public Model {
 public:
  explicit Unigram(const Node& node)
      : pieces_(read_pieces(node.get("vocab"))), index_(pieces_.with_ids()) {
    if (const Node unknown = node.get("unk_id"); !unknown.is_null()) {
      unknown_ = unknown.id();
      if (static_cast<size_t>(*unknown_) >= size())
        unknown.fail("no token has the id {}", *unknown_);
    }
    if (node.get("byte_fallback").boolean_or(false)) {
      bytes_.emplace([&](std::string_view token) { return token_id(token); });
    }
  }
  Unigram(const Unigram&) = delete;  // the index points into the pieces

  std::optional<int32_t> token_id(std::string_view token) const override {
    return index_.find(token);
  }
  size_t size() const override { return pieces_.tokens.size(); }
  std::vector<std::optional<std::string>> tokens() const override {
    return {pieces_.tokens.begin(), pieces_.tokens.end()};
  }

  void tokenize(std::string_view word, std::vector<int32_t>& ids) const override {
    for (const std::string_view part : best_parts(word)) {
      if (const auto id = token_id(part)) {
        ids.push_back(*id);
      } else if (!bytes_ || !bytes_->append(part, ids)) {
        ids.push_back(unknown(part));
      }
    }
  }

 private:
  /// The best segmentation of a word up to some byte.
  struct Best {
    static constexpr size_t kNowhere = std::numeric_limits<size_t>::max();
    size_t start = kNowhere;  // of its last token
    double score = 0;
    bool unknown = false;  // that token is none: a character without token
    bool offer(size_t from, double sum, bool is_unknown) {
      const bool better = start == kNowhere || sum > score;
      if (better) *this = {from, sum, is_unknown};
      return better;
    }
  };

  int32_t unknown(std::string_view part) const {
    if (!unknown_) no_token_for(part);
    return *unknown_;
  }

  /// Viterbi, left to right; of equal sums the one with the longest last token stays. Neighbouring
  /// characters without token are one part.
  std::vector<std::string_view> best_parts(std::string_view word) const {
    std::vector<Best> best(word.size() + 1);
    for (size_t at = 0; at < word.size();) {
      const double sum = best[at].score;
      const size_t character = utf8_step(word.substr(at, 4)).length;
      bool single = false;  // the character has a token of its own
      index_.each_prefix(word.substr(at), [&](int32_t id, size_t length) {
        const double score = pieces_.scores[static_cast<size_t>(id)];
        best[at + length].offer(at, score + sum, id == unknown_);
        if (length == character) single = true;
      });
      if (!single) {
        const double score = pieces_.lowest - kUnknownPenalty;
        const bool better = best[at + character].offer(at, score + sum, true);
        if (better) unknown(word.substr(at, character));  // throws if there is none
      }
      at += character;
    }
    std::vector<std::string_view> parts;
    bool unknown_after = false;
    for (size_t end = word.size(); end > 0; end = best[end].start) {
      const Best& last = best[end];
      if (last.unknown && unknown_after) {
        const size_t length = parts.back().size() + end - last.start;
        parts.back() = word.substr(last.start, length);
      } else {
        parts.push_back(word.substr(last.start, end - last.start));
      }
      unknown_after = last.unknown;
    }
    std::ranges::reverse(parts);
    return parts;
  }

  Pieces pieces_;
  PrefixIndex index_;
  std::optional<int32_t> unknown_;
  std::optional<ByteTokens> bytes_;
};

}  // namespace

std::unique_ptr<Model> make_unigram(const Node& node) { return std::make_unique<Unigram>(node); }

}  // namespace shunt::tokenizer
