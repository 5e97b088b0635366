// WordPiece: the longest token first, from left to right. Entry point: make_wordpiece(). Tested by
// tests/runtime/tokenizer_test.cpp against the reference library.
#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_prefix_index.h"
#include "runtime/engine/tokenizer_utf8.h"
#include "runtime/engine/tokenizer_vocabulary.h"

namespace shunt::tokenizer {

namespace {

class WordPiece : public Model {
 public:
  explicit WordPiece(const Node& node)
      : vocabulary_(node.get("vocab")),
        index_(vocabulary_.entries()),
        prefix_(node.get("continuing_subword_prefix").string()),
        max_characters_(node.get("max_input_chars_per_word").count()),
        unknown_(vocabulary_.find(node.get("unk_token").string())) {}

  std::optional<int32_t> token_id(std::string_view token) const override {
    return vocabulary_.find(token);
  }
  size_t size() const override { return vocabulary_.size(); }
  std::vector<std::optional<std::string>> tokens() const override { return vocabulary_.tokens(); }

  /// A word is unknown as a whole: one part without token takes the tokens of the others along.
  void tokenize(std::string_view word, std::vector<int32_t>& ids) const override {
    const size_t before = ids.size();
    if (count_characters(word) <= max_characters_ && append_parts(word, ids)) return;
    if (!unknown_) no_token_for(word);
    ids.resize(before);
    ids.push_back(*unknown_);
  }

 private:
  bool append_parts(std::string_view word, std::vector<int32_t>& ids) const {
    for (size_t start = 0; start < word.size();) {
      const std::string prefix = start > 0 ? prefix_ : "";
      int32_t longest = -1;
      size_t end = start;
      index_.each_prefix(prefix + std::string(word.substr(start)), [&](int32_t id, size_t length) {
        if (length <= prefix.size()) return;
        longest = id;
        end = start + length - prefix.size();
      });
      if (longest < 0) return false;
      ids.push_back(longest);
      start = end;
    }
    return true;
  }

  Vocabulary vocabulary_;
  PrefixIndex index_;
  std::string prefix_;
  size_t max_characters_;
  std::optional<int32_t> unknown_;
};

}  // namespace

std::unique_ptr<Model> make_wordpiece(const Node& node) {
  return std::make_unique<WordPiece>(node);
}

}  // namespace shunt::tokenizer
