// Cutting text into words. Entry point: make_pre_tokenizer(). Tested by
// tests/runtime/tokenizer_test.cpp against the reference library.
#include <algorithm>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_split.h"
#include "runtime/engine/tokenizer_unicode.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

std::string to_byte_chars(std::string_view text) {
  std::string mapped;
  mapped.reserve(text.size() + 8);
  for (char c : text) append_utf8(byte_to_char(static_cast<uint8_t>(c)), mapped);
  return mapped;
}

Regex make_pattern(const Node& node) {
  if (const Node regex = node.get("Regex"); !regex.is_null()) {
    return Regex(regex.string(), regex.where());
  }
  const Node literal = node.get("String");
  if (literal.string().empty()) literal.unsupported("an empty pattern");
  return Regex::literal(literal.string(), literal.where());
}

namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The standard's \w, not Oniguruma's.
constexpr std::string_view kWordsPattern = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]+)"
                                           R"(|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d\s]+)";

/// A text without pre-tokenizer is one word.
class Whole : public PreTokenizer {
 public:
  void split(const Word& piece, std::vector<Word>& words) const override { words.push_back(piece); }
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, const std::string& where)
      : add_prefix_space_(add_prefix_space) {
    if (use_regex) split_.emplace(Regex(kGpt2Pattern, where), Behavior::isolated);
  }

  void split(const Word& piece, std::vector<Word>& words) const override {
    Word spaced = piece;
    if (add_prefix_space_ && !spaced.text.starts_with(' ')) spaced.text.insert(0, " ");
    const size_t first = words.size();
    if (split_) {
      split_->split(spaced, words);
    } else {
      words.push_back(std::move(spaced));
    }
    for (size_t i = first; i < words.size(); ++i) words[i].text = to_byte_chars(words[i].text);
  }

 private:
  bool add_prefix_space_;
  std::optional<Split> split_;
};

/// Blanks become a visible character, which also goes before the text; words begin with it.
class Metaspace : public PreTokenizer {
 public:
  explicit Metaspace(const Node& node) {
    append_utf8(node.get("replacement").character(), replacement_);
    const std::string scheme =
        node.get("prepend_scheme").is_null() ? "always" : node.get("prepend_scheme").string();
    prepend_ = scheme != "never";
    only_first_ = scheme == "first";
    if (scheme != "always" && scheme != "first" && scheme != "never") {
      node.get("prepend_scheme").unsupported("the scheme " + quote_name(scheme));
    }
    if (!node.get("add_prefix_space").boolean_or(true)) prepend_ = false;  // of older files
    if (node.get("split").boolean_or(true)) {
      split_.emplace(Regex::literal(replacement_, node.where()), Behavior::merged_with_next);
    }
  }

  void split(const Word& piece, std::vector<Word>& words) const override {
    Word word = {"", piece.first};
    for (char c : piece.text) {
      if (c == ' ') {
        word.text += replacement_;
      } else {
        word.text += c;
      }
    }
    const bool wanted = prepend_ && (piece.first || !only_first_);
    if (wanted && !word.text.starts_with(replacement_)) word.text.insert(0, replacement_);
    if (split_) {
      split_->split(word, words);
    } else {
      words.push_back(std::move(word));
    }
  }

 private:
  std::string replacement_;
  bool prepend_;
  bool only_first_;
  std::optional<Split> split_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> parts)
      : parts_(std::move(parts)) {}

  void split(const Word& piece, std::vector<Word>& words) const override {
    std::vector<Word> now = {piece};
    for (const auto& part : parts_) {
      std::vector<Word> next;
      for (const Word& word : now) part->split(word, next);
      now = std::move(next);
    }
    std::ranges::move(now, std::back_inserter(words));
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

template <class... Parts>
std::unique_ptr<PreTokenizer> sequence_of(Parts... parts) {
  std::vector<std::unique_ptr<PreTokenizer>> all;
  (all.push_back(std::make_unique<Parts>(std::move(parts))), ...);
  return std::make_unique<PreTokenizerSequence>(std::move(all));
}

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Node& node) {
  if (node.is_null()) return std::make_unique<Whole>();
  const std::string kind = node.kind();
  if (kind == "ByteLevel") {
    return std::make_unique<ByteLevel>(node.get("add_prefix_space").boolean(),
                                       node.get("use_regex").boolean_or(true), node.where());
  }
  if (kind == "Metaspace") return std::make_unique<Metaspace>(node);
  if (kind == "Split") {
    return std::make_unique<Split>(make_pattern(node.get("pattern")),
                                   behavior_of(node.get("behavior")),
                                   node.get("invert").boolean_or(false));
  }
  if (kind == "Digits") {
    const bool individual = node.get("individual_digits").boolean_or(false);
    return std::make_unique<Split>(Regex(R"(\p{N})", node.where()),
                                   individual ? Behavior::isolated : Behavior::contiguous);
  }
  if (kind == "Whitespace") {
    return std::make_unique<Split>(Regex(kWordsPattern, node.where()), Behavior::removed, true);
  }
  if (kind == "WhitespaceSplit") return std::make_unique<Split>(is_white_space, Behavior::removed);
  if (kind == "Punctuation") {
    const Node behavior = node.get("behavior");
    return std::make_unique<Split>(is_punctuation,
                                   behavior.is_null() ? Behavior::isolated : behavior_of(behavior));
  }
  if (kind == "BertPreTokenizer") {
    return sequence_of(Split(is_white_space, Behavior::removed),
                       Split(is_punctuation, Behavior::isolated));
  }
  if (kind == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    for (const Node& item : node.get("pretokenizers").items())
      parts.push_back(make_pre_tokenizer(item));
    return std::make_unique<PreTokenizerSequence>(std::move(parts));
  }
  node.unsupported("pre-tokenizer " + quote_name(kind));
}

}  // namespace shunt::tokenizer
