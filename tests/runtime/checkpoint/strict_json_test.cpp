// The bounds of strict JSON reading.
#include "runtime/checkpoint/strict_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/runtime/checkpoint/temp_files.h"

namespace shunt {
namespace {

using test::expect_user_error;

TEST(StrictJson, Parses) {
  const auto tree =
      parse_strict_json(R"({"a":[1,{"b":"]]]]"}],"c":{"b":2}})", "f.json", {.max_depth = 3});
  EXPECT_EQ(tree["c"]["b"], 2);
}

TEST(StrictJson, Refuses) {
  expect_user_error([] { parse_strict_json("{", "f.json"); }, {"f.json", "not valid JSON"});
  expect_user_error([] { parse_strict_json("", "f.json"); }, {"f.json", "not valid JSON"});
  expect_user_error([] { parse_strict_json(std::string("{}\0x", 4), "f.json"); },
                    {"f.json", "NUL"});
  expect_user_error([] { parse_strict_json("[1,]", "f.json"); }, {"f.json", "not valid JSON"});
  expect_user_error([] { parse_strict_json("1e999", "f.json"); }, {"f.json", "number"});
  expect_user_error([] { parse_strict_json("{\"a\":1,\"a\":2}", "f.json"); },
                    {"f.json", "'a'", "twice"});
  expect_user_error([] { parse_strict_json("[{\"b\":{\"a\":1,\"a\":2}}]", "f.json"); },
                    {"'a'", "twice"});
  expect_user_error([] { parse_strict_json("[[[1]]]", "f.json", {.max_depth = 2}); },
                    {"deeper than 2"});
  expect_user_error([] { parse_strict_json(std::string(100'000, '['), "f.json"); },
                    {"deeper than 64"});
  expect_user_error([] { parse_strict_json("[1, 2]", "f.json", {.max_bytes = 3}); },
                    {"limit of 3"});
}

TEST(StrictJson, SameKeyInTwoObjectsIsFine) {
  EXPECT_NO_THROW(parse_strict_json(R"([{"a":1},{"a":{"a":2}}])", "f.json"));
}

TEST(StrictJson, ReadsFilesWithinTheLimit) {
  const test::TempDir dir;
  dir.write("f", "12345");
  EXPECT_EQ(read_text_file(dir.path() / "f", 5), "12345");
  expect_user_error([&] { read_text_file(dir.path() / "f", 4); }, {"/f", "limit of 4"});
  expect_user_error([&] { read_text_file(dir.path() / "g", 4); }, {"/g", "no such file"});
}

}  // namespace
}  // namespace shunt
