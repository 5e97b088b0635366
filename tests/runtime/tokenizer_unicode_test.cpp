// Classes of characters: all characters, as the reference library has them
// (tests/data/tokenizer/generate_kinds.py).
#include "runtime/engine/tokenizer_unicode.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/checkpoint/strict_json.h"
#include "tests/paths.h"

namespace shunt::tokenizer {
namespace {

TEST(TokenizerUnicode, ClassesOfTheReferenceLibrary) {
  const auto expected = nlohmann::json::parse(read_text_file(
      std::string(source_dir()) + "/tests/data/tokenizer/unicode.json", 1'000'000));
  const std::pair<const char*, bool (*)(char32_t)> classes[] = {
      {"white_space", is_white_space},
      {"punctuation", is_punctuation},
      {"other",
       [](char32_t code) {  // BERT's normalizer also removes U+FFFD, and keeps three of them
         if (code == 0x9 || code == 0xa || code == 0xd) return false;
         return code == 0xfffd || is_other(code);
       }},
      {"nonspacing_mark", is_nonspacing_mark},
      {"combining_mark", is_combining_mark}};
  for (const auto& [name, is_member] : classes) {
    std::vector<bool> members(0x110000);
    for (const auto& run : expected.at(name)) {
      for (size_t code = run[0]; code <= run[1]; ++code) members[code] = true;
    }
    for (char32_t code = 1; code < 0x110000; ++code) {
      if (code == 0xd800) code = 0xe000;  // no characters
      ASSERT_EQ(is_member(code), members[code])
          << name << fmt::format(" U+{:04X}", static_cast<uint32_t>(code));
    }
  }
}

TEST(TokenizerUnicode, LowerCase) {
  const auto lower = [](char32_t code) {
    std::string text;
    append_lowercase(code, text);
    return text;
  };
  EXPECT_EQ(lower('A'), "a");
  EXPECT_EQ(lower('1'), "1");
  EXPECT_EQ(lower(0xc9), "\u00e9");
  EXPECT_EQ(lower(0x130), "i\u0307");
  EXPECT_EQ(lower(0x3a3), "\u03c3");  // whether or not it ends a word
  EXPECT_EQ(lower(0x1e9e), "\u00df");
}

}  // namespace
}  // namespace shunt::tokenizer
