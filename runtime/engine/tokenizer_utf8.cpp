// UTF-8 by the table of the Unicode standard (3-7), and the byte-level alphabet. Entry points:
// utf8_step(), byte_to_char(). Tested by tests/runtime/tokenizer_utf8_test.cpp.
#include "runtime/engine/tokenizer_utf8.h"

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/engine/tokenizer.h"

namespace shunt::tokenizer {

Utf8Step utf8_step(std::string_view bytes) {
  using Kind = Utf8Step::Kind;
  const auto lead = static_cast<uint8_t>(bytes[0]);
  if (lead < 0x80) return {Kind::character, 1, lead};
  size_t length = 0;
  if (lead >= 0xc2 && lead <= 0xdf) length = 2;
  if (lead >= 0xe0 && lead <= 0xef) length = 3;
  if (lead >= 0xf0 && lead <= 0xf4) length = 4;
  if (length == 0) return {Kind::invalid, 1};
  char32_t code = lead & (0xffu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Kind::unfinished, i};
    const auto byte = static_cast<uint8_t>(bytes[i]);
    uint8_t low = 0x80;
    uint8_t high = 0xbf;
    if (i == 1) {  // the second byte rules out overlong forms, surrogates and codes past U+10FFFF
      if (lead == 0xe0) low = 0xa0;
      if (lead == 0xed) high = 0x9f;
      if (lead == 0xf0) low = 0x90;
      if (lead == 0xf4) high = 0x8f;
    }
    if (byte < low || byte > high) return {Kind::invalid, i};
    code = (code << 6) | (byte & 0x3fu);
  }
  return {Kind::character, length, code};
}

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text.substr(at, 4));
    if (step.kind != Utf8Step::Kind::character) return at;
    at += step.length;
  }
  return std::nullopt;
}

bool is_ascii(std::string_view text) {
  return std::ranges::none_of(text, [](char c) { return (c & 0x80) != 0; });
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

void append_utf8(char32_t code, std::string& text) {
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xc0 | (code >> 6));
    text += static_cast<char>(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    text += static_cast<char>(0xe0 | (code >> 12));
    text += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    text += static_cast<char>(0x80 | (code & 0x3f));
  } else {
    text += static_cast<char>(0xf0 | (code >> 18));
    text += static_cast<char>(0x80 | ((code >> 12) & 0x3f));
    text += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    text += static_cast<char>(0x80 | (code & 0x3f));
  }
}

namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
}

struct ByteAlphabet {
  std::array<char32_t, 256> to_char = {};
  std::array<int16_t, 512> to_byte = {};  // -1: none; the alphabet ends at U+0143
};

constexpr ByteAlphabet make_alphabet() {
  ByteAlphabet alphabet;
  for (int16_t& byte : alphabet.to_byte) byte = -1;
  char32_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t code = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.to_char[static_cast<size_t>(byte)] = code;
    alphabet.to_byte[code] = static_cast<int16_t>(byte);
  }
  return alphabet;
}
constexpr ByteAlphabet kAlphabet = make_alphabet();

}  // namespace

char32_t byte_to_char(uint8_t byte) { return kAlphabet.to_char[byte]; }

std::optional<uint8_t> char_to_byte(char32_t code) {
  if (code >= kAlphabet.to_byte.size() || kAlphabet.to_byte[code] < 0) return std::nullopt;
  return static_cast<uint8_t>(kAlphabet.to_byte[code]);
}

}  // namespace shunt::tokenizer

namespace shunt {

using tokenizer::Utf8Step;
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

std::string Utf8Assembler::push(std::string_view bytes) {
  const std::string all = std::exchange(waiting_, {}) + std::string(bytes);
  std::string text;
  for (size_t at = 0; at < all.size();) {
    const std::string_view rest = std::string_view(all).substr(at);
    const Utf8Step step = tokenizer::utf8_step(rest);
    if (step.kind == Utf8Step::Kind::unfinished) {
      waiting_ = rest;
      break;
    }
    text += step.kind == Utf8Step::Kind::character ? rest.substr(0, step.length) : kReplacement;
    at += step.length;
  }
  return text;
}

std::string Utf8Assembler::finish() {
  return std::exchange(waiting_, {}).empty() ? std::string() : std::string(kReplacement);
}

}  // namespace shunt
