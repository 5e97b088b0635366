// Normalizers: Unicode normal forms by utf8proc, and the small rewritings. Entry point:
// make_normalizer(). Tested by tests/runtime/tokenizer_test.cpp against the reference library.
#include <utf8proc.h>

#include <cstdlib>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_regex.h"
#include "runtime/engine/tokenizer_unicode.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

std::string unicode_form(const std::string& text, int options) {
  if (is_ascii(text)) return text;  // every form leaves ASCII alone
  utf8proc_uint8_t* mapped = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                 static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(mapped, &std::free);
  if (size < 0)
    user_error("cannot normalize a text of {} bytes: {}", text.size(), utf8proc_errmsg(size));
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
}

namespace {

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(int options) : options_(options) {}
  void apply(Word& word) const override { word.text = unicode_form(word.text, options_); }

 private:
  int options_;
};

class Lowercase : public Normalizer {
 public:
  void apply(Word& word) const override {
    std::string lower;
    for_each_character(word.text,
                       [&](char32_t code, std::string_view) { append_lowercase(code, lower); });
    word.text = std::move(lower);
  }
};

class StripAccents : public Normalizer {
 public:
  void apply(Word& word) const override { remove_characters(word, is_combining_mark); }
};

/// Takes white space off the ends.
class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}

  void apply(Word& word) const override {
    size_t begin = std::string::npos;  // of what is no space
    size_t end = 0;
    size_t at = 0;
    for_each_character(word.text, [&](char32_t code, std::string_view character) {
      if (!is_white_space(code)) {
        if (begin == std::string::npos) begin = at;
        end = at + character.size();
      }
      at += character.size();
    });
    if (begin == std::string::npos) {
      if (left_ || right_) word = {};
      return;
    }
    if (right_) word.text.resize(end);
    if (!left_ || begin == 0) return;
    word.text.erase(0, begin);
    word.first = false;
  }

 private:
  bool left_;
  bool right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}
  void apply(Word& word) const override {
    if (!word.text.empty()) word.text.insert(0, text_);
  }

 private:
  std::string text_;
};

class Replace : public Normalizer {
 public:
  Replace(Regex regex, std::string content)
      : regex_(std::move(regex)), content_(std::move(content)) {}

  void apply(Word& word) const override {
    if (word.text.empty()) return;
    const std::vector<Regex::Range> matches = regex_.find_all(word.text);
    if (matches.empty()) return;
    // What replaces several characters belongs, to the reference library, to the last of them.
    const auto [begin, end] = matches.front();
    const std::string_view first = std::string_view(word.text).substr(0, end);
    if (begin == 0 && end > 0 && (content_.empty() || count_characters(first) > 1)) {
      word.first = false;
    }
    word.text = regex_.replace_all(word.text, content_);
  }

 private:
  Regex regex_;
  std::string content_;
};

/// Characters to the byte-level alphabet.
class ByteLevel : public Normalizer {
 public:
  void apply(Word& word) const override { word.text = to_byte_chars(word.text); }
};

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> parts)
      : parts_(std::move(parts)) {}

  void apply(Word& word) const override {
    for (const auto& part : parts_) part->apply(word);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

}  // namespace

void remove_characters(Word& word, bool (*unwanted)(char32_t)) {
  std::string kept;
  bool first = true;  // before the first character
  for_each_character(word.text, [&](char32_t code, std::string_view character) {
    if (!unwanted(code)) {
      kept += character;
    } else if (first) {
      word.first = false;
    }
    first = false;
  });
  word.text = std::move(kept);
}

std::unique_ptr<Normalizer> make_normalizer(const Node& node) {
  if (node.is_null()) return nullptr;
  const std::string kind = node.kind();
  if (kind == "NFC") return std::make_unique<UnicodeForm>(UTF8PROC_COMPOSE);
  if (kind == "NFD") return std::make_unique<UnicodeForm>(UTF8PROC_DECOMPOSE);
  if (kind == "NFKC") return std::make_unique<UnicodeForm>(UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  if (kind == "NFKD") return std::make_unique<UnicodeForm>(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  if (kind == "Lowercase") return std::make_unique<Lowercase>();
  if (kind == "StripAccents") return std::make_unique<StripAccents>();
  if (kind == "Strip") {
    return std::make_unique<Strip>(node.get("strip_left").boolean(),
                                   node.get("strip_right").boolean());
  }
  if (kind == "Prepend") return std::make_unique<Prepend>(node.get("prepend").string());
  if (kind == "Replace") {
    return std::make_unique<Replace>(make_pattern(node.get("pattern")),
                                     node.get("content").string());
  }
  if (kind == "BertNormalizer") return make_bert_normalizer(node);
  if (kind == "Precompiled") return make_precompiled(node);
  if (kind == "ByteLevel") return std::make_unique<ByteLevel>();
  if (kind == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> parts;
    for (const Node& item : node.get("normalizers").items()) {
      if (auto part = make_normalizer(item)) parts.push_back(std::move(part));
    }
    return std::make_unique<NormalizerSequence>(std::move(parts));
  }
  node.unsupported("normalizer " + quote_name(kind));
}

}  // namespace shunt::tokenizer
