// The normalizer of SentencePiece: a table of replacements in a double-array trie. Entry point:
// make_precompiled(). Tested by tests/runtime/tokenizer_test.cpp against the reference library.
//
// precompiled_charsmap, base64: u32 bytes of the trie, the trie (u32 units, little endian), then
// the replacements as texts that end with a zero byte; a leaf of the trie is an offset among them.
#include <utf8proc.h>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

std::string decode_base64(const Node& node) {
  const std::string text = node.string();
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;  // of bits that wait
  for (const char c : std::string_view(text).substr(0, text.find('='))) {
    constexpr std::string_view kAlphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos) node.fail("is not base64");
    bits = (bits << 6) | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>((bits >> count) & 0xff);
    }
  }
  return bytes;
}

class Precompiled : public Normalizer {
 public:
  explicit Precompiled(const Node& node) : where_(node.where()) {
    const std::string bytes = decode_base64(node);
    const auto u32 = [&](size_t at) {
      uint32_t value = 0;
      for (size_t i = 4; i-- > 0;) value = (value << 8) | static_cast<uint8_t>(bytes[at + i]);
      return value;
    };
    if (bytes.size() < 4 || u32(0) > bytes.size() - 4 || u32(0) % 4 != 0 || u32(0) == 0) {
      node.fail("has {} bytes, which its first number contradicts", bytes.size());
    }
    for (size_t at = 4; at < 4 + u32(0); at += 4) units_.push_back(u32(at));
    texts_ = bytes.substr(4 + u32(0));
    if (find_invalid_utf8(texts_)) node.fail("has replacements that are not UTF-8");
  }

  /// Grapheme by grapheme: a short one is looked up whole, else its characters one by one.
  void apply(Word& word) const override {
    std::string out;
    const auto append_replacement = [&](std::string_view part) {
      const auto found = replacement(part);
      if (found) out += *found;
      return found.has_value();
    };
    bool modified = false;
    bool first = true;
    for_each_grapheme(word.text, [&](std::string_view grapheme) {
      constexpr size_t kShort = 6;  // bytes
      const size_t before = out.size();
      if (grapheme.size() < kShort && append_replacement(grapheme)) {
        modified = true;
      } else {
        for_each_character(grapheme, [&](char32_t, std::string_view character) {
          if (append_replacement(character)) {
            modified = true;
          } else {
            out += character;
          }
        });
      }
      if (first && out.size() == before) word.first = false;
      first = false;
    });
    if (modified) word.text = std::move(out);
  }

 private:
  template <class F>
  static void for_each_grapheme(std::string_view text, F&& f) {
    size_t start = 0;
    size_t at = 0;
    utf8proc_int32_t state = 0;
    utf8proc_int32_t last = 0;
    for_each_character(text, [&](char32_t c, std::string_view character) {
      const auto code = static_cast<utf8proc_int32_t>(c);
      if (at > 0 && utf8proc_grapheme_break_stateful(last, code, &state)) {
        f(text.substr(start, at - start));
        start = at;
      }
      last = code;
      at += character.size();
    });
    if (start < text.size()) f(text.substr(start));
  }

  /// Of the shortest entry that `part` begins with (so does the reference library, whatever stands
  /// behind it); nullopt if there is none.
  std::optional<std::string_view> replacement(std::string_view part) const {
    const auto offset = [](uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); };
    size_t node = offset(units_[0]);
    for (const char c : part) {
      const auto byte = static_cast<uint8_t>(c);
      if (byte == 0) break;
      node ^= byte;
      if (node >= units_.size()) break;
      const uint32_t unit = units_[node];
      if ((unit & ((1u << 31) | 0xff)) != byte) break;
      node ^= offset(unit);
      if (((unit >> 8) & 1) == 0) continue;
      if (node >= units_.size()) break;
      return text_at(units_[node] & ((1u << 31) - 1));
    }
    return std::nullopt;
  }

  std::string_view text_at(size_t start) const {
    const std::string_view texts = texts_;
    if (start > texts.size() || (start < texts.size() && (texts[start] & 0xc0) == 0x80)) {
      user_error("{}: an entry has no text at {}; fetch the file again", where_, start);
    }
    return texts.substr(start, texts.find('\0', start) - start);
  }

  std::string where_;
  std::vector<uint32_t> units_;
  std::string texts_;
};

}  // namespace

std::unique_ptr<Normalizer> make_precompiled(const Node& node) {
  return std::make_unique<Precompiled>(node.get("precompiled_charsmap"));
}

}  // namespace shunt::tokenizer
