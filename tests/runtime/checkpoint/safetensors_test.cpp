// One good header in detail, and one bad header for every rule of safetensors.h.
#include "runtime/checkpoint/safetensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "runtime/checkpoint/digest.h"
#include "tests/runtime/checkpoint/temp_files.h"

namespace shunt {
namespace {

using test::expect_user_error;
using test::raw_file;
using test::safetensors_file;

SafetensorsHeader parse(const std::string& bytes) {
  return parse_safetensors_header(std::as_bytes(std::span(bytes)),
                                  static_cast<int64_t>(bytes.size()), "a.safetensors");
}

/// A header with one tensor "x" and 8 bytes of data must be refused with an error that has all
/// `parts`.
void expect_refused(std::string_view header, std::initializer_list<std::string_view> parts) {
  SCOPED_TRACE(header);
  expect_user_error([&] { parse(safetensors_file(header, 8)); }, parts);
  expect_user_error([&] { parse(safetensors_file(header, 8)); }, {"a.safetensors"});
}

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirOffsets) {
  const std::string header = R"({"__metadata__":{"format":"pt"},)"
                             R"("late":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]},)"
                             R"("early":{"shape":[2],"data_offsets":[0,8],"dtype":"F32"},)"
                             R"("empty":{"dtype":"F32","shape":[0,7],"data_offsets":[12,12]},)"
                             R"("scalar":{"dtype":"F8_E4M3","shape":[],"data_offsets":[12,13]}}  )";
  const std::string bytes = safetensors_file(header, 13);
  const SafetensorsHeader parsed = parse(bytes);
  ASSERT_EQ(parsed.tensors.size(), 4u);
  EXPECT_EQ(parsed.tensors[0].name, "early");
  EXPECT_EQ(parsed.tensors[0].dtype, DType::f32);
  EXPECT_EQ(parsed.tensors[1].name, "late");
  EXPECT_EQ(parsed.tensors[1].dtype, DType::bf16);
  EXPECT_EQ(parsed.tensors[1].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(parsed.tensors[1].offset, static_cast<int64_t>(8 + header.size() + 8));
  EXPECT_EQ(parsed.tensors[1].bytes, 4);
  EXPECT_EQ(parsed.tensors[2].name, "empty");
  EXPECT_EQ(parsed.tensors[3].name, "scalar");
  EXPECT_TRUE(parsed.tensors[3].shape.empty());
  EXPECT_EQ(parsed.digest, sha256_hex(std::string_view(bytes).substr(0, 8 + header.size())));
}

TEST(Safetensors, EveryReadableDtype) {
  const std::pair<const char*, DType> cases[] = {
      {"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16},     {"I64", DType::i64},
      {"I32", DType::i32}, {"U8", DType::u8},   {"F8_E4M3", DType::f8e4m3}};
  for (const auto& [name, dtype] : cases) {
    const auto bytes = static_cast<size_t>(dtype_bytes(dtype)) * 3;
    const auto header =
        fmt::format(R"({{"x":{{"dtype":"{}","shape":[3],"data_offsets":[0,{}]}}}})", name, bytes);
    const SafetensorsHeader parsed = parse(safetensors_file(header, bytes));
    ASSERT_EQ(parsed.tensors.size(), 1u);
    EXPECT_EQ(parsed.tensors[0].dtype, dtype);
  }
}

TEST(Safetensors, OtherDtypesOfTheFormatAreKeptAsUnreadable) {
  const std::pair<const char*, size_t> cases[] = {
      {"BOOL", 8}, {"I8", 8},   {"I16", 16},    {"U16", 16}, {"U32", 32},    {"U64", 64},
      {"F64", 64}, {"C64", 64}, {"F8_E5M2", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  for (const auto& [name, bits] : cases) {
    const auto header =
        fmt::format(R"({{"x":{{"dtype":"{}","shape":[8],"data_offsets":[0,{}]}}}})", name, bits);
    const SafetensorsHeader parsed = parse(safetensors_file(header, bits));
    EXPECT_TRUE(parsed.tensors.empty());
    ASSERT_EQ(parsed.unreadable.size(), 1u) << name;
    EXPECT_EQ(parsed.unreadable[0].dtype, name);
  }
}

TEST(Safetensors, EmptyFileOfNoTensors) {
  EXPECT_TRUE(parse(safetensors_file("{}", 0)).tensors.empty());
}

TEST(Safetensors, LengthOfTheHeader) {
  expect_user_error([] { parse(""); }, {"too short"});
  expect_user_error([] { parse("1234567"); }, {"too short"});
  expect_user_error([] { parse(raw_file(100'000'001, "{}", "")); }, {"100000001", "limit"});
  expect_user_error([] { parse(raw_file(UINT64_MAX, "{}", "")); }, {"limit"});
  expect_user_error([] { parse(raw_file(3, "{}", "")); }, {"header of 3 bytes", "truncated"});
  expect_user_error([] { parse(raw_file(0, "", "")); }, {"does not start with '{'"});
}

TEST(Safetensors, JsonThatIsNone) {
  expect_refused(R"( {})", {"does not start with '{'"});
  expect_refused(R"([1])", {"does not start with '{'"});
  expect_refused(R"({"x")", {"not valid JSON"});
  expect_refused(R"({} {})", {"not valid JSON"});
  expect_refused("{\"\xff\":1}", {"not valid JSON"});
  expect_refused(std::string("{}\0x", 4), {"NUL"});
}

TEST(Safetensors, NestingBombsCostNeitherStackNorMemory) {
  const std::string brackets(100'000, '[');
  expect_refused(R"({"x":)" + brackets, {"'x'", "an array"});
  expect_refused(R"({"x":{"dtype":"F32","shape":)" + brackets, {"'x'", "an array"});
  std::string objects = "{\"x\":";
  for (int i = 0; i < 100'000; ++i) objects += "{\"x\":";
  expect_refused(objects, {"'x'", "unknown key"});
}

TEST(Safetensors, DuplicateKeysAtAnyLevel) {
  constexpr std::string_view entry = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  expect_refused(fmt::format(R"({{"x":{},"x":{}}})", entry, entry), {"'x'", "appears twice"});
  expect_refused(R"({"x":{"dtype":"F32","dtype":"F32"}})", {"'x'", "'dtype' appears twice"});
  expect_refused(R"({"x":{"shape":[1],"shape":[1]}})", {"'x'", "'shape' appears twice"});
  expect_refused(R"({"x":{"data_offsets":[0,4],"data_offsets":[0,4]}})",
                 {"'data_offsets' appears twice"});
  expect_refused(R"({"__metadata__":{},"__metadata__":{}})", {"__metadata__ appears twice"});
  expect_refused(R"({"__metadata__":{"a":"1","a":"2"}})", {"'a'", "appears twice"});
}

TEST(Safetensors, EntriesOfAnotherForm) {
  expect_refused(R"({"x":1})", {"'x'", "a number"});
  expect_refused(R"({"x":null})", {"'x'", "null"});
  expect_refused(R"({"x":{}})", {"'x'", "no dtype"});
  expect_refused(R"({"x":{"dtype":"F32","data_offsets":[0,8]}})", {"'x'", "no shape"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[2]}})", {"'x'", "data_offsets"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0]}})",
                 {"'x'", "data_offsets"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}})",
                 {"'x'", "too many"});
  expect_refused(R"({"x":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", {"'x'", "a number"});
  expect_refused(R"({"x":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}})",
                 {"'x'", "a string"});
  expect_refused(R"({"x":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", {"'x'", "a number"});
  expect_refused(R"({"x":{"dtype":"f32","shape":[2],"data_offsets":[0,8]}})",
                 {"'x'", "unknown dtype 'f32'"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}})",
                 {"'x'", "unknown key 'more'"});
  expect_refused(R"({"__metadata__":{"a":1}})", {"__metadata__", "string"});
  expect_refused(R"({"__metadata__":7})", {"__metadata__"});
}

TEST(Safetensors, NumbersOutOfRange) {
  expect_refused(R"({"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", {"'x'", "negative"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})",
                 {"'x'", "no integer"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[1e2],"data_offsets":[0,8]}})",
                 {"'x'", "no integer"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})",
                 {"out of range"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}})",
                 {"no integer"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})",
                 {"overflows"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,0]}})",
                 {"out of range"});
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  expect_refused(R"({"x":{"dtype":"F32","shape":[)" + ones + R"(],"data_offsets":[0,4]}})",
                 {"too many"});
}

TEST(Safetensors, OffsetsMustTileTheData) {
  auto two = [](int a, int b, int c, int d) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}},)"
                       R"("b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                       b - a, a, b, d - c, c, d);
  };
  EXPECT_EQ(parse(safetensors_file(two(0, 3, 3, 8), 8)).tensors.size(), 2u);
  expect_refused(two(0, 4, 3, 8), {"'b'", "overlaps"});
  expect_refused(two(0, 8, 0, 8), {"overlaps"});
  expect_refused(two(0, 3, 4, 8), {"'b'", "1 unused bytes"});
  expect_refused(two(1, 3, 3, 8), {"'a'", "1 unused bytes"});
  expect_refused(two(0, 3, 3, 7), {"1 bytes after the last tensor"});
  expect_refused(two(0, 3, 3, 9), {"'b'", "truncated"});
  expect_refused("{}", {"8 bytes after the last tensor"});
  expect_refused(R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[8,0]}})",
                 {"'x'", "before they begin"});
}

TEST(Safetensors, ShapeAndSizeMustAgree) {
  expect_refused(R"({"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
                 {"'x'", "needs 12 bytes", "give it 8"});
  expect_refused(R"({"x":{"dtype":"F32","shape":[],"data_offsets":[0,8]}})",
                 {"'x'", "needs 4 bytes"});
  expect_refused(R"({"x":{"dtype":"F4","shape":[3],"data_offsets":[0,8]}})",
                 {"'x'", "no whole bytes"});
}

TEST(Safetensors, HostileNamesStayOnOneLine) {
  expect_refused(R"({"a\nb\u0000":1})", {R"('a\x0ab\x00')"});
  expect_refused("{\"" + std::string(100'000, 'n') + "\":1}", {"nnn...'"});
}

}  // namespace
}  // namespace shunt
