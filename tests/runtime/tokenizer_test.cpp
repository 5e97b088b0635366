// Ids and texts of the reference library (tests/data/tokenizer/generate.py), streaming, speed and
// refusals.
#include "runtime/engine/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "runtime/checkpoint/strict_json.h"
#include "tests/paths.h"
#include "tests/runtime/checkpoint/temp_files.h"

namespace shunt {
namespace {

using nlohmann::json;
using test::expect_user_error;

std::string data(const std::string& name) {
  return std::string(source_dir()) + "/tests/data/" + name;
}
json read_json(const std::string& path) { return json::parse(read_text_file(path, 10'000'000'0)); }
/// "": byte-level BPE; else one of bases.json.
const json& base(const std::string& name = "") {
  static const json byte_level = read_json(data("tokenizer/base.json"));
  static const json others = read_json(data("tokenizer/bases.json"));
  return name.empty() ? byte_level : others.at(name);
}

/// A base with the members of `patch`; "model.x" replaces within the model.
json patched(const json& patch, const std::string& base_name = "") {
  json tree = base(base_name);
  for (const auto& [key, value] : patch.items()) {
    if (key.starts_with("model.")) {
      tree["model"][key.substr(6)] = value;
    } else {
      tree[key] = value;
    }
  }
  return tree;
}
Tokenizer tokenizer_of(const json& patch, const std::string& base_name = "") {
  return Tokenizer::from_json(patched(patch, base_name).dump(), "t.json");
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                     bool skip_special) {
  StreamDecoder stream(tokenizer, skip_special);
  std::string text;
  for (int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

void check_decoded(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                   const std::string& decoded, const std::string& skipped) {
  EXPECT_EQ(tokenizer.decode(ids), decoded) << json(ids);
  EXPECT_EQ(tokenizer.decode(ids, true), skipped) << json(ids);
  EXPECT_EQ(streamed(tokenizer, ids, false), decoded) << json(ids);
  EXPECT_EQ(streamed(tokenizer, ids, true), skipped) << json(ids);
}

void check_case(const Tokenizer& tokenizer, const json& expected) {
  const auto text = expected["text"].get<std::string>();
  const auto ids = expected["ids"].get<std::vector<int32_t>>();
  EXPECT_EQ(tokenizer.encode(text), ids) << quote_name(text);
  EXPECT_EQ(tokenizer.encode(text, false), expected.value("plain", ids)) << quote_name(text);
  const std::string decoded = expected.value("decoded", text);
  check_decoded(tokenizer, ids, decoded, expected.value("skipped", decoded));
}

TEST(Tokenizer, Storyteller) {
  const Tokenizer tokenizer =
      Tokenizer::from_file(std::string(source_dir()) + "/examples/storyteller/tokenizer.json");
  EXPECT_EQ(tokenizer.vocab_size(), 4096);
  EXPECT_EQ(tokenizer.token_id("<|endoftext|>"), 0);
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(1));
  const json cases = read_json(data("storyteller/tokenizer_cases.json"));
  ASSERT_EQ(cases.size(), 9u);
  for (const json& expected : cases) {
    const auto ids = expected["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(expected["text"].get<std::string>()), ids);
    EXPECT_EQ(tokenizer.decode(ids), expected["decoded"].get<std::string>());
  }
}

class TokenizerCases : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerCases, AgreeWithTheReferenceLibrary) {
  const json variants = read_json(data(GetParam()));
  ASSERT_GE(variants.size(), 10u);
  for (const json& variant : variants) {
    SCOPED_TRACE(variant["name"].get<std::string>());
    const Tokenizer tokenizer = tokenizer_of(variant["patch"], variant.value("base", ""));
    for (const json& expected : variant["cases"]) check_case(tokenizer, expected);
    for (const json& expected : variant.value("decodes", json::array())) {
      check_decoded(tokenizer, expected["ids"], expected["decoded"], expected["skipped"]);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Files, TokenizerCases,
                         testing::Values("tokenizer/cases_1.json", "tokenizer/cases_2.json",
                                         "tokenizer/cases_llama.json",
                                         "tokenizer/cases_wordpiece.json",
                                         "tokenizer/cases_unigram.json"));

TEST(Tokenizer, AdditionalIdsDecodeToNothing) {
  const Tokenizer tokenizer = tokenizer_of(json::object());
  EXPECT_EQ(
      tokenizer.decode(std::vector<int32_t>{-1, tokenizer.vocab_size(), INT32_MAX, INT32_MIN}), "");
  EXPECT_FALSE(tokenizer.is_special(-1));
}

TEST(Tokenizer, StreamKeepsUnfinishedCharacters) {
  const Tokenizer tokenizer = tokenizer_of({{"model.merges", json::array()}});  // a token a byte
  const std::vector<int32_t> ids = tokenizer.encode("a\xe2\x98\x83z");
  ASSERT_EQ(ids.size(), 5u);
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push(ids[0]), "a");
  EXPECT_EQ(stream.push(ids[1]), "");
  EXPECT_EQ(stream.push(ids[2]), "");
  EXPECT_EQ(stream.push(ids[3]), "\xe2\x98\x83");
  EXPECT_EQ(stream.push(ids[1]), "");
  EXPECT_EQ(stream.push(ids[4]), "\xef\xbf\xbdz");
  EXPECT_EQ(stream.push(ids[1]), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
}

TEST(Tokenizer, TextThatIsNotUtf8) {
  const Tokenizer tokenizer = tokenizer_of(json::object());
  for (const char* text :
       {"ab\xff", "ab\xc3", "ab\xed\xa0\x80", "ab\xc0\xaf", "ab\xf5\x80\x80\x80"}) {
    expect_user_error([&] { tokenizer.encode(text); }, {"not UTF-8", "byte 2"});
  }
}

TEST(Tokenizer, LongTextsAreFast) {
  const Tokenizer tokenizer =
      Tokenizer::from_file(std::string(source_dir()) + "/examples/storyteller/tokenizer.json");
  std::string prose;
  for (int i = 0; prose.size() < 100'000; ++i)
    prose += fmt::format("Word{} was not in the story, and I'll go on. ", i);
  const std::vector<Tokenizer> others = {tokenizer_of(json::object(), "llama"),
                                         tokenizer_of(json::object(), "wordpiece"),
                                         tokenizer_of(json::object(), "unigram")};
  for (const Tokenizer& other : others) {
    for (const std::string& text : {prose, std::string(100'000, 'a'), std::string(100'000, '.')}) {
      const auto start = std::chrono::steady_clock::now();
      EXPECT_GT(other.encode(text).size(), 0u);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      EXPECT_LT(seconds.count(), 2.0);
    }
  }
  for (const std::string& text : {prose, std::string(100'000, 'a'), std::string(100'000, ' ')}) {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<int32_t> ids = tokenizer.encode(text);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_EQ(tokenizer.decode(ids), text);
    EXPECT_LT(seconds.count(),
              2.0);  // 20 to 50 ms in a release build; a quadratic merge takes minutes
  }
}

/// base.json with `patch` must be refused with an error that has all `parts`.
void expect_refused(const json& patch, std::initializer_list<std::string_view> parts) {
  SCOPED_TRACE(patch.dump());
  expect_user_error([&] { tokenizer_of(patch); }, parts);
}

TEST(Tokenizer, OtherKindsAreNamed) {
  const auto kind = [](const char* name) { return json{{"type", name}}; };
  expect_refused({{"model.type", "WordLevel"}}, {"t.json: model", "'WordLevel'", "--ids"});
  expect_refused({{"model.dropout", 0.1}}, {"dropout", "--ids"});
  expect_refused({{"model.end_of_word_suffix", "</w>"}}, {"end_of_word_suffix", "--ids"});
  expect_refused({{"model.continuing_subword_prefix", "##"}},
                 {"continuing_subword_prefix", "--ids"});
  expect_refused({{"pre_tokenizer", kind("UnicodeScripts")}},
                 {"pre_tokenizer", "'UnicodeScripts'", "--ids"});
  expect_refused({{"normalizer", kind("Nmt")}}, {"normalizer", "'Nmt'", "--ids"});
  expect_refused({{"decoder", kind("CTC")}}, {"decoder", "'CTC'", "--ids"});
  expect_refused({{"decoder", nullptr}}, {"decoder", "--ids"});
  expect_refused({{"post_processor", kind("Pairs")}}, {"post_processor", "'Pairs'", "--ids"});
  expect_refused(
      {{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json::array({kind("New")})}}}},
      {"pre_tokenizer.pretokenizers[0]", "--ids"});
  expect_refused({{"decoder", {{"type", "Sequence"}, {"decoders", json::array({kind("New")})}}}},
                 {"decoder.decoders[0]", "--ids"});
  expect_refused({{"pre_tokenizer",
                   {{"type", "Split"}, {"behavior", "Twice"}, {"pattern", {{"String", "a"}}}}}},
                 {"pre_tokenizer.behavior", "'Twice'"});
  const json late = {
      {"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}, {"split", true}};
  expect_refused({{"pre_tokenizer", late}}, {"prepend_scheme", "'last'", "--ids"});
  const json empty = {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "a"}};
  expect_refused({{"normalizer", empty}}, {"normalizer.pattern.String", "empty", "--ids"});
  expect_refused({{"decoder", empty}}, {"decoder.pattern.String", "empty", "--ids"});
}

TEST(Tokenizer, ModelsThatContradictThemselves) {
  expect_refused({{"model.vocab", {{"a", 1}, {"b", 1}}}},
                 {"model.vocab", "'a'", "'b'", "same id 1"});
  expect_refused({{"model.vocab", {{"a", -1}}}}, {"model.vocab", "'a'"});
  expect_refused({{"model.vocab", {{"a", 1 << 30}}}}, {"model.vocab", "'a'", "id from 0"});
  expect_refused({{"model.vocab", {{"a", "1"}}}}, {"model.vocab", "'a'"});
  expect_refused({{"model.vocab", json::array()}}, {"model.vocab"});
  expect_refused({{"model.merges", json::array({"a zz"})}}, {"model.merges", "entry 0", "'zz'"});
  expect_refused({{"model.merges", json::array({"a b c"})}},
                 {"model.merges", "entry 0", "one space"});
  expect_refused({{"model.merges", json::array({json::array({"a"})})}},
                 {"model.merges", "entry 0"});
  expect_refused({{"model.merges", 7}}, {"model.merges", "list"});
  expect_refused({{"model.unk_token", "<none>"}}, {"model.unk_token", "'<none>'"});
  expect_refused({{"model.ignore_merges", 1}}, {"model.ignore_merges", "true or false"});
  expect_refused({{"model", 7}}, {"model", "object"});
}

TEST(Tokenizer, PartsThatContradictThemselves) {
  const json blank = {{"type", "Metaspace"}, {"replacement", "__"}};
  expect_refused({{"pre_tokenizer", blank}}, {"pre_tokenizer.replacement", "one character"});
  expect_refused({{"decoder", blank}}, {"decoder.replacement", "one character"});
  expect_refused({{"decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}}}},
                 {"decoder.start", "whole number"});
  expect_refused(
      {{"post_processor", {{"type", "BertProcessing"}, {"cls", json::array({"[CLS]"})}}}},
      {"post_processor.cls", "[token, id]"});
  const auto charsmap = [](const char* map) {
    return json{{"normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", map}}}};
  };
  expect_refused(charsmap("!"), {"precompiled_charsmap", "base64"});
  expect_refused(charsmap("AAA"), {"precompiled_charsmap", "2 bytes"});
  expect_refused(charsmap("/////wAA"), {"precompiled_charsmap", "6 bytes"});
  expect_refused(charsmap("BAAAAAAAAAD/"), {"precompiled_charsmap", "UTF-8"});
}

TEST(Tokenizer, UnigramsThatContradictThemselves) {
  const auto refused = [](const json& patch, std::initializer_list<std::string_view> parts) {
    SCOPED_TRACE(patch.dump());
    expect_user_error([&] { tokenizer_of(patch, "unigram"); }, parts);
  };
  refused({{"model.vocab", json::array()}}, {"model.vocab", "tokens and scores"});
  refused({{"model.vocab", json::array({json::array({"a"})})}},
          {"model.vocab[0]", "[token, score]"});
  refused({{"model.vocab", json::array({json::array({"a", "b"})})}},
          {"model.vocab[0][1]", "number"});
  refused({{"model.unk_id", 1 << 20}}, {"model.unk_id", "1048576"});
  const Tokenizer tokenizer = tokenizer_of({{"model.unk_id", nullptr}}, "unigram");
  expect_user_error([&] { tokenizer.encode("a \u2603"); }, {"no token", "\u2603", "--ids"});
}

TEST(Tokenizer, WordPieceWithoutUnknownToken) {
  const Tokenizer tokenizer = tokenizer_of({{"model.unk_token", "[no]"}}, "wordpiece");
  expect_user_error([&] { tokenizer.encode("a \u2603"); }, {"no token", "\u2603", "--ids"});
}

TEST(Tokenizer, FilesWithoutModelType) {
  for (const char* name : {"llama", "wordpiece", "unigram"}) {
    json tree = base(name);
    tree["model"].erase("type");
    const Tokenizer old = Tokenizer::from_json(tree.dump(), "t.json");
    EXPECT_EQ(old.encode("the cat"), tokenizer_of(json::object(), name).encode("the cat"));
  }
}

/// What a stream that starts after `prompt` gives for the ids of `text` without `prompt`.
std::string continued(const Tokenizer& tokenizer, std::vector<int32_t> prompt,
                      const std::vector<int32_t>& ids) {
  StreamDecoder stream(tokenizer, true);
  stream.start_after(prompt);
  std::string text;
  for (int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

TEST(Tokenizer, ContinuationsKeepTheirBlank) {
  for (const char* name : {"llama", "wordpiece", "unigram"}) {
    SCOPED_TRACE(name);
    const Tokenizer tokenizer = tokenizer_of(json::object(), name);
    const std::vector<int32_t> prompt = tokenizer.encode("the cat");
    const std::vector<int32_t> next = tokenizer.encode("the dog", false);
    EXPECT_EQ(continued(tokenizer, prompt, next), " the dog");
    EXPECT_EQ(continued(tokenizer, {}, next), "the dog");
    EXPECT_EQ(continued(tokenizer, prompt, {}), "");
  }
}

TEST(Tokenizer, ContinuationsOfARunOfBytes) {
  const Tokenizer tokenizer = tokenizer_of(json::object(), "llama");
  const auto byte = [&](const char* name) { return *tokenizer.token_id(name); };
  // The prompt ends in a run of bytes, which the continuation ends, goes on with, or spoils.
  const std::vector<int32_t> prompt = {byte("a"), byte("<0x0A>")};
  EXPECT_EQ(continued(tokenizer, prompt, {byte("b")}), "b");
  EXPECT_EQ(continued(tokenizer, prompt, {byte("<0x0A>"), byte("b")}), "\nb");
  EXPECT_EQ(continued(tokenizer, prompt, {byte("<0xFF>"), byte("b")}),
            "\xef\xbf\xbd\xef\xbf\xbd"
            "b");
}

TEST(Tokenizer, AddedTokensMustHaveTheirIds) {
  json token = {{"content", "<new>"},   {"id", 9999},      {"special", true},
                {"single_word", false}, {"lstrip", false}, {"rstrip", false},
                {"normalized", false}};
  expect_refused({{"added_tokens", json::array({token})}}, {"added_tokens[0]", "'<new>'", "9999"});
  token["content"] = "a";
  token["id"] = 0;
  expect_refused({{"added_tokens", json::array({token})}}, {"added_tokens[0]", "'a'", "has id 0"});
  token["id"] = "0";
  expect_refused({{"added_tokens", json::array({token})}}, {"added_tokens[0].id"});
  token.erase("content");
  expect_refused({{"added_tokens", json::array({token})}}, {"added_tokens[0].content"});
}

TEST(Tokenizer, Templates) {
  const json sequence_b = {{"Sequence", {{"id", "B"}}}};
  const json sequence_a = {{"Sequence", {{"id", "A"}}}};
  const json special = {{"SpecialToken", {{"id", "<x>"}}}};
  auto with = [](const json& single, const json& specials) {
    return json{
        {"post_processor",
         {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", specials}}}};
  };
  expect_refused(with(json::array({sequence_b}), json::object()),
                 {"post_processor.single[0]", "sequence"});
  expect_refused(with(json::array({special}), json::object()),
                 {"special_tokens", "'<x>'", "missing"});
  expect_refused(with(json::array({special}), {{"<x>", {{"ids", json::array({99999})}}}}),
                 {"post_processor", "99999"});
  const json doubling = {{"type", "TemplateProcessing"},
                         {"single", json::array({sequence_a, sequence_a})},
                         {"special_tokens", json::object()}};
  const json bomb = {{"type", "Sequence"}, {"processors", std::vector<json>(40, doubling)}};
  expect_refused({{"post_processor", bomb}}, {"post_processor", "more than 4096"});
}

TEST(Tokenizer, CharacterWithoutToken) {
  json vocab = base()["model"]["vocab"];
  vocab.erase("z");
  const Tokenizer tokenizer =
      tokenizer_of({{"model.vocab", vocab}, {"model.merges", json::array()}});
  EXPECT_EQ(tokenizer.encode("ab").size(), 2u);
  expect_user_error([&] { tokenizer.encode("abz"); }, {"no token", "'z'", "--ids"});
}

TEST(Tokenizer, FilesThatAreNone) {
  expect_user_error([] { Tokenizer::from_file("/nonexistent/tokenizer.json"); }, {"no such file"});
  for (const char* text : {"", "[", "7", "[]", "{}", "null", R"({"model":{"type":"BPE"}})"}) {
    SCOPED_TRACE(text);
    expect_user_error([&] { Tokenizer::from_json(text, "t.json"); }, {"t.json"});
  }
  const std::string bomb = R"({"pre_tokenizer":)" + std::string(100'000, '[');
  expect_user_error([&] { Tokenizer::from_json(bomb, "t.json"); }, {"t.json", "deeper"});
}

}  // namespace
}  // namespace shunt
