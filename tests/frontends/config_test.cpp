// config.json: what is read, what is ignored, and what is refused with which words.
#include <gtest/gtest.h>

#include "frontends/hf/config.h"
#include "tests/frontends/model_dir.h"

namespace shunt {
namespace {

using hf::Config;

Config parse(const std::string& text) { return Config::parse(text, "dir/config.json"); }

TEST(Config, getters_read_values_and_defaults) {
  const Config c = parse(
      R"({"n": 3, "whole": 4.0, "x": 0.5, "b": true, "s": "t", "l": [1, 2], "nothing": null})");
  EXPECT_EQ(c.integer({"n"}, 1, 10), 3);
  EXPECT_EQ(c.integer({"whole"}, 1, 10), 4);
  EXPECT_EQ(c.integer_or({"nothing"}, 7, 1, 10), 7);
  EXPECT_EQ(c.number({"x"}, {0, 1}), 0.5);
  EXPECT_TRUE(c.boolean_or({"b"}, false));
  EXPECT_EQ(c.text({"s"}), "t");
  EXPECT_EQ(c.integers({"l"}), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(c.integers({"n"}), (std::vector<int64_t>{3}));
  EXPECT_TRUE(c.finish("f").empty());
}

TEST(Config, spellings_of_one_key_must_agree) {
  const Config same = parse(R"({"a": 1, "b": 1})");
  EXPECT_EQ(same.integer({"a", "b"}, 0, 9), 1);
  const Config differ = parse(R"({"a": 1, "b": 2})");
  EXPECT_EQ(user_error_of([&] {
              differ.integer({"a", "b"}, 0, 9);
            }),
            "dir/config.json: key 'b': differs from 'a', which means the same");
}

TEST(Config, wrong_types_and_sizes) {
  const Config c =
      parse(R"({"f": 1.5, "s": "x", "big": 1e30, "neg": -1, "huge": 18446744073709551615,
                             "list": [1, "a"], "hugelist": [18446744073709551615]})");
  const auto integer = [&](const char* key) {
    return user_error_of([&] { c.integer({key}, 1, 100); });
  };
  EXPECT_EQ(integer("f"), "dir/config.json: key 'f': expected an integer, found a fraction");
  EXPECT_EQ(integer("s"), "dir/config.json: key 's': expected an integer, found string");
  EXPECT_EQ(integer("big"), "dir/config.json: key 'big': 1e+30 is outside 1 ... 100");
  EXPECT_EQ(integer("neg"), "dir/config.json: key 'neg': -1 is outside 1 ... 100");
  EXPECT_NE(integer("huge").find("is outside 1 ... 100"), std::string::npos);
  EXPECT_EQ(integer("absent"), "dir/config.json: key 'absent': is missing");
  EXPECT_NE(user_error_of([&] { c.boolean_or({"s"}, true); }).find("expected true or false"),
            std::string::npos);
  EXPECT_NE(user_error_of([&] { c.number({"s"}, {}); }).find("expected a number"),
            std::string::npos);
  EXPECT_NE(user_error_of([&] { c.integers({"list"}); }).find("found string"), std::string::npos);
  EXPECT_NE(user_error_of([&] { c.integers({"hugelist"}); }).find("absurdly large"),
            std::string::npos);
  EXPECT_NE(user_error_of([&] { c.object("s"); }).find("expected an object, found string"),
            std::string::npos);
}

TEST(Config, unread_keys_are_refused_unless_inert_or_neutral) {
  EXPECT_EQ(user_error_of([] { parse(R"({"new_scale": 2.0})").finish("mixtral"); }),
            "dir/config.json: key 'new_scale' is not understood by family 'mixtral' and could "
            "change the result");
  EXPECT_NE(user_error_of([] { parse(R"({"zero": 0})").finish("f"); }), "");
  EXPECT_NE(user_error_of([] { parse(R"({"one": true})").finish("f"); }), "");
  EXPECT_TRUE(parse(R"({"a": null, "b": false, "c": [], "d": {}, "e": "", "use_cache": true})")
                  .finish("f")
                  .empty());
  EXPECT_EQ(parse(R"({"auto_map": {"AutoModel": "x.py"}})").finish("f"),
            (std::vector<std::string>{"auto_map"}));
}

TEST(Config, unread_keys_of_a_nested_object_are_refused) {
  const Config c = parse(R"({"rope": {"theta": 1, "mystery": 2}})");
  c.object("rope")->number({"theta"}, {});
  EXPECT_NE(user_error_of([&] { c.finish("f"); }).find("key 'rope.mystery'"), std::string::npos);
}

TEST(Config, text_config_is_merged) {
  const Config c =
      parse(R"({"model_type": "outer", "text_config": {"model_type": "inner", "n": 5}})");
  EXPECT_EQ(c.text({"model_type"}), "inner");
  EXPECT_EQ(c.integer({"n"}, 0, 9), 5);
  EXPECT_NE(user_error_of([] {
              parse(R"({"n": 1, "text_config": {"n": 2}})");
            }).find("key 'n' has two values"),
            std::string::npos);
}

TEST(Config, malformed_files) {
  EXPECT_EQ(user_error_of([] { parse("{"); }).find("dir/config.json"), 0u);
  EXPECT_NE(user_error_of([] { parse("[]"); }).find("not a JSON object"), std::string::npos);
  EXPECT_NE(user_error_of([] { parse(R"({"a": 1, "a": 2})"); }), "");
  EXPECT_NE(user_error_of([] { parse(std::string(5000, '[')); }), "");
  EXPECT_NE(user_error_of([] {
              Config::read("/nonexistent/config.json");
            }).find("/nonexistent/config.json"),
            std::string::npos);
}

}  // namespace
}  // namespace shunt
