// The parts of a tokenizer, in the order a text runs through them; internal to
// runtime/engine/tokenizer*.cpp.
//
//   text -> added tokens cut out -> Normalizer -> more added tokens cut out -> PreTokenizer ->
//   Model -> PostProcessor ids  -> token strings -> TokenDecoder -> bytes
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

namespace shunt::tokenizer {

/// Rewrites a text (Unicode normal forms).
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string apply(std::string text) const = 0;
};

/// Cuts a piece of text into words; may also rewrite them (byte-level alphabet). Appends no empty
/// word.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void split(std::string_view piece, std::vector<std::string>& words) const = 0;
};

/// Turns words into ids. Owns the vocabulary without the added tokens.
class Model {
 public:
  virtual ~Model() = default;
  /// Appends the ids of all `words`.
  virtual void tokenize(const std::vector<std::string>& words, std::vector<int32_t>& ids) const = 0;
  virtual std::optional<int32_t> token_id(std::string_view token) const = 0;
  /// Number of tokens; ids may have holes.
  virtual size_t size() const = 0;
  /// token of each id; "" where there is none.
  virtual const std::vector<std::string>& tokens() const = 0;
};

/// Ids around those of the text: nullopt stands for the text.
using Template = std::vector<std::optional<int32_t>>;
constexpr size_t kMaxTemplate = 4096;  // ids; sequences of templates could double without end

/// Token string to the bytes it stands for.
class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  virtual std::string bytes(std::string_view token) const = 0;
};

std::unique_ptr<Normalizer> make_normalizer(const Node& node);  // null: nothing to do
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Node& node);
Template make_template(const Node& node);
std::unique_ptr<TokenDecoder> make_token_decoder(const Node& node);

std::unique_ptr<Model> make_bpe(const Node& node);

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
