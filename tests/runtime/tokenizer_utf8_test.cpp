// UTF-8 steps, the assembler, and the byte alphabet.
#include "runtime/engine/tokenizer_utf8.h"

#include <gtest/gtest.h>

#include "runtime/engine/tokenizer.h"

namespace shunt {
namespace {

using tokenizer::utf8_step;
using tokenizer::Utf8Step;

TEST(TokenizerUtf8, EveryCodePointRoundTrips) {
  for (char32_t code = 0; code <= 0x10ffff; ++code) {
    std::string text;
    tokenizer::append_utf8(code, text);
    const Utf8Step step = utf8_step(text);
    if (code >= 0xd800 && code <= 0xdfff) {
      ASSERT_EQ(step.kind, Utf8Step::Kind::invalid) << uint32_t{code};
      continue;
    }
    ASSERT_EQ(step.kind, Utf8Step::Kind::character) << uint32_t{code};
    ASSERT_TRUE(step.code == code) << uint32_t{code};
    ASSERT_EQ(step.length, text.size());
    for (size_t n = 1; n < text.size(); ++n) {
      ASSERT_EQ(utf8_step(text.substr(0, n)).kind, Utf8Step::Kind::unfinished) << uint32_t{code};
    }
  }
}

TEST(TokenizerUtf8, InvalidPartsAreMaximal) {
  auto assembled = [](std::string_view bytes) {
    Utf8Assembler assembler;
    std::string text = assembler.push(bytes);
    return text + assembler.finish();
  };
  const std::string r = "\xef\xbf\xbd";
  // Table 3-8 of the Unicode standard, and what follows from it.
  EXPECT_EQ(assembled("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(assembled("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(assembled("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(assembled("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"), r + r + r + r + "A");
  EXPECT_EQ(assembled("a\xf0\x9f\x99"), "a" + r);
}

TEST(TokenizerUtf8, AssemblerDoesNotDependOnHowTheBytesAreCut) {
  const std::string bytes = "x\xf0\x9f\x99\x82\xe2\x98\xe2\x98\x83\xff\xc3\xa9\xf0\x9f";
  Utf8Assembler whole;
  std::string expected = whole.push(bytes);
  expected += whole.finish();
  for (size_t step = 1; step < bytes.size(); ++step) {
    Utf8Assembler cut;
    std::string text;
    for (size_t i = 0; i < bytes.size(); i += step) {
      const std::string piece = cut.push(std::string_view(bytes).substr(i, step));
      EXPECT_EQ(tokenizer::find_invalid_utf8(piece), std::nullopt);
      text += piece;
    }
    EXPECT_EQ(text + cut.finish(), expected) << step;
  }
}

TEST(TokenizerUtf8, ByteAlphabet) {
  EXPECT_TRUE(tokenizer::byte_to_char('a') == U'a');
  EXPECT_TRUE(tokenizer::byte_to_char(' ') == 0x120u);
  EXPECT_TRUE(tokenizer::byte_to_char('\n') == 0x10au);
  EXPECT_TRUE(tokenizer::byte_to_char(0xad) == 0x143u);
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer::char_to_byte(tokenizer::byte_to_char(static_cast<uint8_t>(byte))), byte);
  }
  EXPECT_EQ(tokenizer::char_to_byte(U' '), std::nullopt);
  EXPECT_EQ(tokenizer::char_to_byte(0x144), std::nullopt);
  EXPECT_EQ(tokenizer::char_to_byte(0x10ffff), std::nullopt);
}

}  // namespace
}  // namespace shunt
