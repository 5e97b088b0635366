// The normalizer of BERT: clean text, blanks around ideographs, no accents, lower case. Entry
// point: make_bert_normalizer(). Tested by tests/runtime/tokenizer_test.cpp against the reference
// library.
#include <utf8proc.h>

#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_unicode.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

/// Tabs and line ends are white space here, other control characters go.
bool is_unwanted(char32_t code) {
  if (code == '\t' || code == '\n' || code == '\r') return false;
  return code == 0 || code == 0xfffd || is_other(code);
}

/// Ideographs, as BERT's authors listed their blocks: a hole at U+2B820 is theirs.
bool is_ideograph(char32_t code) {
  return (code >= 0x4e00 && code <= 0x9fff) || (code >= 0x3400 && code <= 0x4dbf) ||
         (code >= 0x20000 && code <= 0x2a6df) || (code >= 0x2a700 && code <= 0x2b73f) ||
         (code >= 0x2b740 && code <= 0x2b81f) || (code >= 0x2b920 && code <= 0x2ceaf) ||
         (code >= 0xf900 && code <= 0xfaff) || (code >= 0x2f800 && code <= 0x2fa1f);
}

class BertNormalizer : public Normalizer {
 public:
  explicit BertNormalizer(const Node& node)
      : clean_text_(node.get("clean_text").boolean()),
        space_ideographs_(node.get("handle_chinese_chars").boolean()),
        lowercase_(node.get("lowercase").boolean()),
        strip_accents_(node.get("strip_accents").boolean_or(lowercase_)) {}

  void apply(Word& word) const override {
    if (clean_text_) {
      remove_characters(word, is_unwanted);
      map(word.text, [](char32_t code, std::string_view character, std::string& out) {
        out += is_white_space(code) ? " " : character;
      });
    }
    if (space_ideographs_) {
      map(word.text, [](char32_t code, std::string_view character, std::string& out) {
        const char* space = is_ideograph(code) ? " " : "";
        out.append(space).append(character).append(space);
      });
    }
    if (strip_accents_) {
      word.text = unicode_form(word.text, UTF8PROC_DECOMPOSE);
      remove_characters(word, is_nonspacing_mark);
    }
    if (lowercase_) {
      map(word.text,
          [](char32_t code, std::string_view, std::string& out) { append_lowercase(code, out); });
    }
  }

 private:
  template <class F>
  static void map(std::string& text, F&& append) {
    std::string out;
    out.reserve(text.size());
    for_each_character(text, [&](char32_t code, std::string_view c) { append(code, c, out); });
    text = std::move(out);
  }

  bool clean_text_;
  bool space_ideographs_;
  bool lowercase_;
  bool strip_accents_;
};

}  // namespace

std::unique_ptr<Normalizer> make_bert_normalizer(const Node& node) {
  return std::make_unique<BertNormalizer>(node);
}

}  // namespace shunt::tokenizer
