// Puts the parts of a tokenizer together. Entry points: Tokenizer::from_file(), encode(), decode().
// Tested by tests/runtime/tokenizer_test.cpp against the reference library, and by
// tests/fuzz/fuzz_tokenizer.cpp.
#include "runtime/engine/tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_decode.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt {

using tokenizer::AddedToken;
using tokenizer::AddedTokenFinder;
using tokenizer::Node;
using tokenizer::Word;

namespace {

// The largest files of today have 30 MB (250,000 tokens).
constexpr JsonLimits kLimits = {.max_bytes = 256'000'000, .max_depth = 32};

std::unique_ptr<tokenizer::Model> make_model(const Node& node) {
  // Files written before 2020 have no "type": a key that only one kind has tells.
  const bool no_kind = node.get("type").is_null();
  const auto is = [&](std::string_view kind, std::string_view key) {
    return no_kind ? !node.get(key).is_null() : node.kind() == kind;
  };
  if (is("BPE", "merges")) return tokenizer::make_bpe(node);
  if (is("WordPiece", "max_input_chars_per_word")) return tokenizer::make_wordpiece(node);
  if (is("Unigram", "unk_id")) return tokenizer::make_unigram(node);
  node.unsupported("model " + quote_name(node.kind()));
}

AddedTokenFinder make_finder(const std::vector<AddedToken>& tokens, bool normalized,
                             const tokenizer::Normalizer* normalizer) {
  std::vector<const AddedToken*> chosen;
  std::vector<std::string> contents;
  for (const bool special : {true, false}) {  // the order decides between tokens of equal content
    for (const AddedToken& token : tokens) {
      if (token.special != special || token.normalized != normalized) continue;
      chosen.push_back(&token);
      tokenizer::Word content = {token.content};
      if (normalized && normalizer) normalizer->apply(content);
      contents.push_back(std::move(content.text));
    }
  }
  return AddedTokenFinder(std::move(chosen), contents);
}

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(const Node& root)
      : normalizer(tokenizer::make_normalizer(root.get("normalizer"))),
        pre_tokenizer(tokenizer::make_pre_tokenizer(root.get("pre_tokenizer"))),
        model(make_model(root.get("model"))),
        around(tokenizer::make_template(root.get("post_processor"))),
        decoder(tokenizer::make_decoder(root.get("decoder"))),
        added(tokenizer::read_added_tokens(root.get("added_tokens"), *model)),
        raw_finder(make_finder(added, false, nullptr)),
        normalized_finder(make_finder(added, true, normalizer.get())),
        tokens(model->tokens()) {
    special.resize(tokens.size(), false);
    for (const AddedToken& token : added) {
      const auto id = static_cast<size_t>(token.id);
      if (id >= tokens.size()) {
        tokens.resize(id + 1);
        special.resize(id + 1, false);
      }
      tokens[id] = token.content;
      special[id] = token.special;
      added_ids.emplace(token.content, token.id);
    }
    for (const auto& id : around) {
      if (id && static_cast<size_t>(*id) >= tokens.size()) {
        root.get("post_processor").fail("adds id {}, which no token has", *id);
      }
    }
  }
  Impl(const Impl&) = delete;  // the finders point into `added`

  /// Null: there is no such token.
  const std::string* token(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) >= tokens.size()) return nullptr;
    const auto& token = tokens[static_cast<size_t>(id)];
    return token ? &*token : nullptr;
  }
  bool is_special(int32_t id) const {
    return token(id) != nullptr && special[static_cast<size_t>(id)];
  }

  /// Appends the ids of text in which no added token is.
  void encode_plain(const Word& text, std::vector<int32_t>& ids) const {
    std::vector<Word> words;
    pre_tokenizer->split(text, words);
    // Most words of a text come again: the ids of a first occurrence are copied.
    std::unordered_map<std::string_view, std::pair<size_t, size_t>> seen;
    for (const Word& word : words) {
      const size_t start = ids.size();
      const auto [it, fresh] = seen.try_emplace(word.text, start, 0);
      if (!fresh) {
        const auto [from, count] = it->second;
        for (size_t i = 0; i < count; ++i) ids.push_back(ids[from + i]);
        continue;
      }
      model->tokenize(word.text, ids);
      it->second.second = ids.size() - start;
    }
  }

  void encode_text(std::string_view text, std::vector<int32_t>& ids) const {
    for (const auto& raw : raw_finder.split(text)) {
      if (raw.token != nullptr) {
        ids.push_back(raw.token->id);
        continue;
      }
      Word normal = {std::string(raw.text), raw.text.data() == text.data()};
      if (normalizer) normalizer->apply(normal);
      for (const auto& piece : normalized_finder.split(normal.text)) {
        if (piece.token != nullptr) {
          ids.push_back(piece.token->id);
        } else {
          const bool first = normal.first && piece.text.data() == normal.text.data();
          encode_plain({std::string(piece.text), first}, ids);
        }
      }
    }
  }

  std::unique_ptr<tokenizer::Normalizer> normalizer;  // may be null
  std::unique_ptr<tokenizer::PreTokenizer> pre_tokenizer;
  std::unique_ptr<tokenizer::Model> model;
  tokenizer::Template around;
  std::vector<tokenizer::StageMaker> decoder;
  std::vector<AddedToken> added;
  AddedTokenFinder raw_finder;
  AddedTokenFinder normalized_finder;
  std::unordered_map<std::string, int32_t> added_ids;
  std::vector<std::optional<std::string>> tokens;  // by id
  std::vector<bool> special;                       // by id
};

Tokenizer Tokenizer::from_file(const std::filesystem::path& tokenizer_json) {
  return from_json(read_text_file(tokenizer_json, kLimits.max_bytes), tokenizer_json.string());
}

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& file) {
  const nlohmann::json tree = parse_strict_json(json, file, kLimits);
  return Tokenizer(std::make_shared<const Impl>(Node(tree, file, "")));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  if (const auto at = tokenizer::find_invalid_utf8(text)) {
    user_error("the text is not UTF-8: byte {} (0x{:02x}) cannot stand there; convert the text",
               *at, static_cast<unsigned char>(text[*at]));
  }
  std::vector<int32_t> ids;
  for (const auto& id : impl_->around) {
    if (!id) {
      impl_->encode_text(text, ids);
    } else if (add_special) {
      ids.push_back(*id);
    }
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  StreamDecoder stream(*this, skip_special);
  std::string text;
  for (int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

bool Tokenizer::is_special(int32_t id) const { return impl_->is_special(id); }

int Tokenizer::vocab_size() const { return static_cast<int>(impl_->tokens.size()); }

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto it = impl_->added_ids.find(std::string(token));
  return it != impl_->added_ids.end() ? std::optional(it->second) : impl_->model->token_id(token);
}

StreamDecoder::StreamDecoder(Tokenizer tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)),
      skip_special_(skip_special),
      chain_(std::make_unique<tokenizer::DecodeChain>(tokenizer_.impl_->decoder)) {}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

void StreamDecoder::start_after(std::span<const int32_t> prompt) {
  std::string early;  // what came out already
  for (int32_t id : prompt) early += push(id);
  given_ = tokenizer_.decode(prompt, skip_special_).substr(early.size());
}

std::string StreamDecoder::push(int32_t id) {
  const std::string* token = tokenizer_.impl_->token(id);
  if (token == nullptr || (skip_special_ && tokenizer_.is_special(id))) return "";
  return without_given(chain_->push(*token));
}

std::string StreamDecoder::finish() { return without_given(chain_->finish()); }

std::string StreamDecoder::without_given(std::string text) {
  if (given_.empty()) return text;
  const size_t length = std::min(text.size(), given_.size());
  if (text.compare(0, length, given_, 0, length) != 0) {
    given_.clear();  // the prompt's end is another text with what follows
    return text;
  }
  given_.erase(0, length);
  return text.substr(length);
}

namespace tokenizer {
void no_token_for(std::string_view character) {
  user_error(
      "the tokenizer's vocabulary has no token for {} in the text; take it out, or pass ids "
      "(--ids) instead of text",
      quote_name(character));
}
}  // namespace tokenizer

}  // namespace shunt
