// UTF-8 and the byte-level alphabet of GPT-2; internal to runtime/engine/tokenizer*.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace shunt::tokenizer {

/// What stands at the start of `bytes` (not empty).
struct Utf8Step {
  enum class Kind {
    character,
    invalid,
    unfinished
  };  // unfinished: a valid start, but `bytes` ends
  Kind kind;
  size_t length;      // bytes of the character or of the maximal invalid part; all of `bytes` if
                      // unfinished
  char32_t code = 0;  // of a character
};
Utf8Step utf8_step(std::string_view bytes);

/// Offset of the first byte that is no UTF-8; nullopt if all is well.
std::optional<size_t> find_invalid_utf8(std::string_view text);

bool is_ascii(std::string_view text);

/// Calls f(code, bytes) for each character of `text` (valid UTF-8).
template <class F>
void for_each_character(std::string_view text, F&& f) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text.substr(at, 4));
    f(step.code, text.substr(at, step.length));
    at += step.length;
  }
}
/// Characters in `text` (valid UTF-8).
size_t count_characters(std::string_view text);

/// Appends `code` as UTF-8.
void append_utf8(char32_t code, std::string& text);

/// The printable character that stands for `byte` in a byte-level vocabulary: itself if printable
/// Latin-1, else from U+0100 on (a space is U+0120).
char32_t byte_to_char(uint8_t byte);
/// The inverse; nullopt for a character outside that alphabet.
std::optional<uint8_t> char_to_byte(char32_t code);

}  // namespace shunt::tokenizer
