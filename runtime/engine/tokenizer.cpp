// Puts the parts of a tokenizer together. Entry points: Tokenizer::from_file(), encode(), decode().
// Tested by tests/runtime/tokenizer_test.cpp against the reference library, and by
// tests/fuzz/fuzz_tokenizer.cpp.
#include "runtime/engine/tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt {

using tokenizer::AddedToken;
using tokenizer::AddedTokenFinder;
using tokenizer::Node;

namespace {

// The largest files of today have 30 MB (250,000 tokens).
constexpr JsonLimits kLimits = {.max_bytes = 256'000'000, .max_depth = 32};

std::unique_ptr<tokenizer::Model> make_model(const Node& node) {
  // Files written before 2020 have no "type"; all of those that are models of text generation are
  // BPE.
  const std::string kind =
      node.get("type").is_null() && !node.get("merges").is_null() ? "BPE" : node.kind();
  if (kind == "BPE") return tokenizer::make_bpe(node);
  node.unsupported("model " + quote_name(kind));
}

AddedTokenFinder make_finder(const std::vector<AddedToken>& tokens, bool normalized,
                             const tokenizer::Normalizer* normalizer) {
  std::vector<const AddedToken*> chosen;
  std::vector<std::string> contents;
  for (const bool special : {true, false}) {  // the order decides between tokens of equal content
    for (const AddedToken& token : tokens) {
      if (token.special != special || token.normalized != normalized) continue;
      chosen.push_back(&token);
      contents.push_back(normalized && normalizer ? normalizer->apply(token.content)
                                                  : token.content);
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
        added(tokenizer::read_added_tokens(root.get("added_tokens"), *model)),
        raw_finder(make_finder(added, false, nullptr)),
        normalized_finder(make_finder(added, true, normalizer.get())) {
    const auto decoder = tokenizer::make_token_decoder(root.get("decoder"));
    for (const std::string& token : model->tokens()) bytes.push_back(decoder->bytes(token));
    special.resize(bytes.size(), false);
    for (const AddedToken& token : added) {
      const auto id = static_cast<size_t>(token.id);
      if (id >= bytes.size()) {
        bytes.resize(id + 1);
        special.resize(id + 1, false);
      }
      bytes[id] = decoder->bytes(token.content);
      special[id] = token.special;
      added_ids.emplace(token.content, token.id);
    }
    for (const auto& id : around) {
      if (id && static_cast<size_t>(*id) >= bytes.size()) {
        root.get("post_processor").fail("adds id {}, which no token has", *id);
      }
    }
  }
  Impl(const Impl&) = delete;  // the finders point into `added`

  bool has(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < bytes.size(); }

  /// Appends the ids of text in which no added token is.
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
    std::vector<std::string> words;
    pre_tokenizer->split(text, words);
    model->tokenize(words, ids);
  }

  void encode_text(std::string_view text, std::vector<int32_t>& ids) const {
    for (const auto& raw : raw_finder.split(text)) {
      if (raw.token != nullptr) {
        ids.push_back(raw.token->id);
        continue;
      }
      const std::string normal =
          normalizer ? normalizer->apply(std::string(raw.text)) : std::string(raw.text);
      for (const auto& piece : normalized_finder.split(normal)) {
        if (piece.token != nullptr) {
          ids.push_back(piece.token->id);
        } else {
          encode_plain(piece.text, ids);
        }
      }
    }
  }

  std::unique_ptr<tokenizer::Normalizer> normalizer;  // may be null
  std::unique_ptr<tokenizer::PreTokenizer> pre_tokenizer;
  std::unique_ptr<tokenizer::Model> model;
  tokenizer::Template around;
  std::vector<AddedToken> added;
  AddedTokenFinder raw_finder;
  AddedTokenFinder normalized_finder;
  std::unordered_map<std::string, int32_t> added_ids;
  std::vector<std::string> bytes;  // what each id decodes to
  std::vector<bool> special;       // by id
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
  std::string bytes;
  for (int32_t id : ids) {
    if (!(skip_special && is_special(id))) bytes += token_bytes(id);
  }
  Utf8Assembler assembler;
  std::string text = assembler.push(bytes);
  return text + assembler.finish();
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  return impl_->has(id) ? std::string_view(impl_->bytes[static_cast<size_t>(id)])
                        : std::string_view();
}

bool Tokenizer::is_special(int32_t id) const {
  return impl_->has(id) && impl_->special[static_cast<size_t>(id)];
}

int Tokenizer::vocab_size() const { return static_cast<int>(impl_->bytes.size()); }

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto it = impl_->added_ids.find(std::string(token));
  return it != impl_->added_ids.end() ? std::optional(it->second) : impl_->model->token_id(token);
}

}  // namespace shunt
