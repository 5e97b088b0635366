// What the translation of patterns rewrites and refuses; the meaning is compared in
// tokenizer_test.cpp.
#include "runtime/engine/tokenizer_regex.h"

#include <gtest/gtest.h>

#include "tests/runtime/checkpoint/temp_files.h"

namespace shunt::tokenizer {
namespace {

TEST(TokenizerRegex, Rewrites) {
  auto same = [](std::string_view pattern) { EXPECT_EQ(translate_pattern(pattern, "w"), pattern); };
  same(R"((?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[\-\[\]x]*?|a++|(?<!x)(?=y)(b){2,}?)");
  EXPECT_EQ(translate_pattern(R"(\s+(?!\S)[\s\d])", "w"),
            R"(\p{White_Space}+(?!\P{White_Space})[\p{White_Space}\p{Nd}])");
  EXPECT_EQ(translate_pattern(R"(\x41\u00e9\x{1F642}\v)", "w"), R"(\x{41}\x{00e9}\x{1F642}\x{0b})");
  EXPECT_EQ(translate_pattern(R"(\p{Han}\p{^L}\P{^N}\p{Letter})", "w"),
            R"(\p{sc:Han}\P{L}\p{N}\p{L})");
  EXPECT_EQ(translate_pattern(R"(a[bc]{1,3}+)", "w"), R"(a(?:[bc]{1,3})+)");
  EXPECT_EQ(translate_pattern(R"((x(ab){2}+)c)", "w"), R"((x(?:(ab){2})+)c)");
}

TEST(TokenizerRegex, RefusesWhatTheDialectsReadDifferently) {
  for (const char* pattern : {R"([a-z&&[^b]])",
                              "[[:alpha:]]",
                              "[]a]",
                              "[a",
                              "a{,3}",
                              "a{2}?",
                              "x{",
                              "(?m)a",
                              "(?s:a)",
                              "(?x: a )",
                              "a(?i)b",
                              R"(\bword)",
                              R"(\h)",
                              R"(\R)",
                              R"(\X)",
                              R"(\K)",
                              R"((a)\1)",
                              "(?R)",
                              "(?<name>a)",
                              "(?~a)",
                              "(*UTF)a",
                              "a**",
                              "*a",
                              "(?=a)*",
                              "^*",
                              "a|*",
                              R"(\xff)",
                              R"(\x{110000)",
                              R"(\u12)",
                              R"(\pL)",
                              R"([\W])",
                              "a)",
                              "(a",
                              R"((?i:\p{Lu}))",
                              "\\",
                              R"(\p{})",
                              R"(\p{No Such})",
                              "a{2}{3}"}) {
    SCOPED_TRACE(pattern);
    test::expect_user_error([&] { Regex(pattern, "t.json: x"); }, {"t.json: x", "--ids"});
  }
  test::expect_user_error([] { Regex(R"(\p{NoSuchScript})", "t.json: x"); },
                          {"t.json: x", "NoSuchScript", "--ids"});
  test::expect_user_error([] { Regex(std::string(20'000, 'a'), "t.json: x"); },
                          {"t.json: x", "limit"});
  test::expect_user_error(
      [] { Regex(std::string(1'000, '(') + std::string(1'000, ')'), "t.json: x"); }, {"t.json: x"});
  test::expect_user_error([] { Regex("((a{1,999}){1,999}){1,999}", "t.json: x"); }, {"t.json: x"});
}

TEST(TokenizerRegex, Literals) {
  const std::string text("a.b\\E(c)\0 [x]é", 15);
  for (const std::string& literal :
       {std::string("."), std::string("\\E("), std::string(1, '\0'), std::string("[x]é")}) {
    const auto matches = Regex::literal(literal, "w").find_all(text);
    ASSERT_EQ(matches.size(), 1u) << literal;
    EXPECT_EQ(text.substr(matches[0].first, matches[0].second - matches[0].first), literal);
  }
}

TEST(TokenizerRegex, EmptyMatches) {
  using Ranges = std::vector<Regex::Range>;
  EXPECT_EQ(Regex("x*", "w").find_all("axé"), (Ranges{{0, 0}, {1, 2}, {4, 4}}));
  EXPECT_EQ(Regex("", "w").find_all("é"), (Ranges{{0, 0}, {2, 2}}));
  EXPECT_EQ(Regex("x*", "w").find_all(""), (Ranges{{0, 0}}));
}

TEST(TokenizerRegex, ExplodingPatternsEnd) {
  const Regex regex("(a+)+[xy]", "t.json: x");
  test::expect_user_error([&] { regex.find_all(std::string(5'000, 'a') + "c"); },
                          {"t.json: x", "fails on this text"});
}

TEST(TokenizerRegex, DeepRecursionNeedsNoStack) {
  const Regex regex("(?:ab|a|b)*c", "t.json: x");
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "ab";
  EXPECT_EQ(regex.find_all(text + "c").size(), 1u);
}

}  // namespace
}  // namespace shunt::tokenizer
