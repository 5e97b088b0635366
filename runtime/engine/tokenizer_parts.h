// The parts of a tokenizer, in the order a text runs through them; internal to
// runtime/engine/tokenizer*.cpp.
//
//   text -> added tokens cut out -> Normalizer -> more added tokens cut out -> PreTokenizer ->
//   Model -> Template           ids  -> token strings -> DecodeChain -> text
//
// Each part has a make_ function that reads its object of tokenizer.json and refuses kinds it does
// not know. To add a model kind: a file tokenizer_<kind>.cpp with the class, and one line in
// make_model of tokenizer.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/engine/tokenizer_json.h"
#include "runtime/engine/tokenizer_regex.h"

namespace shunt::tokenizer {

/// A piece of the text on its way through the parts.
struct Word {
  std::string text;
  /// It begins where the whole text begins: nothing before it was cut off or removed. Metaspace
  /// asks.
  bool first = false;
};

/// Rewrites a text (Unicode normal forms, lower case, ...).
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(Word& word) const = 0;
};

/// Cuts a piece of text into words; may also rewrite them (byte-level alphabet). Appends no empty
/// word.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void split(const Word& piece, std::vector<Word>& words) const = 0;
};

/// Turns words into ids. Owns the vocabulary without the added tokens.
class Model {
 public:
  virtual ~Model() = default;
  /// Appends the ids of `word` (not empty).
  virtual void tokenize(std::string_view word, std::vector<int32_t>& ids) const = 0;
  virtual std::optional<int32_t> token_id(std::string_view token) const = 0;
  /// Number of tokens; ids may have holes.
  virtual size_t size() const = 0;
  /// Token of each id; nullopt where there is none.
  virtual std::vector<std::optional<std::string>> tokens() const = 0;
};

/// Ids around those of the text: nullopt stands for the text.
using Template = std::vector<std::optional<int32_t>>;
constexpr size_t kMaxTemplate = 4096;  // ids; sequences of templates could double without end

std::unique_ptr<Normalizer> make_normalizer(const Node& node);  // null: nothing to do
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Node& node);

// For several normalizers.
/// `text` in the normal form that utf8proc's `options` name.
std::string unicode_form(const std::string& text, int options);
void remove_characters(Word& word, bool (*unwanted)(char32_t));
/// Each byte of `text` as its character of the byte-level alphabet.
std::string to_byte_chars(std::string_view text);
/// {"Regex": ...} or {"String": ...}.
Regex make_pattern(const Node& node);

std::unique_ptr<Normalizer> make_bert_normalizer(const Node& node);
std::unique_ptr<Normalizer> make_precompiled(const Node& node);
Template make_template(const Node& node);

std::unique_ptr<Model> make_bpe(const Node& node);
std::unique_ptr<Model> make_unigram(const Node& node);
std::unique_ptr<Model> make_wordpiece(const Node& node);

/// The text has a character for which the vocabulary has no token.
[[noreturn]] void no_token_for(std::string_view character);

/// Tokens beside the model's vocabulary, found in the text before anything else is done with it.
struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only where no letter or digit touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for in the normalized text, in its own normalized form
  bool special = false;
};
/// Reads the list `added_tokens`; ids must be those that the reference library gives them.
std::vector<AddedToken> read_added_tokens(const Node& node, const Model& model);

/// Finds the leftmost, longest of a set of added tokens.
class AddedTokenFinder {
 public:
  /// `contents[i]` is the text to look for in place of `tokens[i]->content`.
  AddedTokenFinder(std::vector<const AddedToken*> tokens, const std::vector<std::string>& contents);

  struct Piece {
    const AddedToken* token;  // null: text between tokens
    std::string_view text;
  };
  /// Cuts `text` into tokens and what lies between, in order.
  std::vector<Piece> split(std::string_view text) const;

 private:
  struct Node {
    int token = -1;
    std::vector<std::pair<char, int>> next;  // few children: searched one by one
  };
  /// Longest token at `start`: (index, length), or (-1, 0).
  std::pair<int, size_t> longest_at(std::string_view text, size_t start) const;

  std::vector<const AddedToken*> tokens_;
  std::vector<Node> trie_;
};

}  // namespace shunt::tokenizer
