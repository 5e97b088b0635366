// Model directories: the shipped example, and every way in which shards and index can disagree.
#include "runtime/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include "runtime/checkpoint/file_reader.h"
#include "tests/paths.h"
#include "tests/runtime/checkpoint/temp_files.h"

namespace shunt {
namespace {

using test::expect_user_error;
using test::safetensors_file;
using test::TempDir;

constexpr const char* kIndex = "model.safetensors.index.json";

std::string shard_with(const std::string& tensor, const std::string& dtype = "U8") {
  return safetensors_file(
      R"({")" + tensor + R"(":{"dtype":")" + dtype + R"(","shape":[4],"data_offsets":[0,4]}})", 4);
}

/// Opening `dir` must fail with an error that has all `parts`.
void expect_refused(const TempDir& dir, std::initializer_list<std::string_view> parts) {
  expect_user_error([&] { Checkpoint::open(dir.path()); }, parts);
}

TEST(Checkpoint, Storyteller) {
  const Checkpoint checkpoint =
      Checkpoint::open(std::string(source_dir()) + "/examples/storyteller");
  ASSERT_EQ(checkpoint.files().size(), 3u);
  EXPECT_EQ(checkpoint.files()[0].name, "model-00001-of-00003.safetensors");
  EXPECT_EQ(checkpoint.files()[0].header_digest.size(), 64u);
  const TensorInfo* embedding = checkpoint.find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->dtype, DType::bf16);
  EXPECT_EQ(embedding->shape, (std::vector<int64_t>{4096, 256}));
  EXPECT_EQ(embedding->bytes, 4096 * 256 * 2);
  EXPECT_EQ(checkpoint.find("nothing"), nullptr);
  int64_t bytes = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) bytes += tensor.bytes;
  EXPECT_EQ(bytes, 16'291'328);
}

TEST(Checkpoint, SortsByName) {
  const TempDir dir;
  dir.write("model.safetensors",
            safetensors_file(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                             2));
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_EQ(checkpoint.tensors()[0].name, "a");
  EXPECT_EQ(checkpoint.tensors()[1].name, "b");
  EXPECT_EQ(checkpoint.directory, dir.path().string());
  const FileReader file(dir.path(), checkpoint.files()[0]);
  std::byte value = {};
  file.read(checkpoint.find("a")->offset, {&value, 1});
  EXPECT_EQ(value, std::byte{1});
}

TEST(Checkpoint, TensorsOfOtherDtypesFailOnlyWhenAskedFor) {
  const TempDir dir;
  dir.write("model.safetensors", shard_with("mask", "BOOL"));
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_TRUE(checkpoint.tensors().empty());
  ASSERT_EQ(checkpoint.unreadable().size(), 1u);
  expect_user_error([&] { checkpoint.find("mask"); },
                    {"model.safetensors", "'mask'", "BOOL", "convert"});
}

TEST(Checkpoint, ReadsShards) {
  const TempDir dir;
  dir.write("s1.safetensors", shard_with("a"));
  dir.write("s2.safetensors", shard_with("b", "I8"));
  dir.write(
      kIndex,
      R"({"metadata":{"total_size":2},"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})");
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_EQ(checkpoint.files().size(), 2u);
  EXPECT_NE(checkpoint.find("a"), nullptr);
  EXPECT_EQ(checkpoint.unreadable()[0].file, 1);
}

TEST(Checkpoint, NothingToRead) {
  const TempDir dir;
  expect_user_error([&] { Checkpoint::open(dir.path() / "none"); },
                    {"none", "no such model directory"});
  expect_refused(dir, {"model.safetensors", "check the path"});
  dir.write("pytorch_model.bin", "");
  expect_refused(dir, {"pytorch_model.bin", "convert"});
}

TEST(Checkpoint, BrokenFileIsNamed) {
  const TempDir dir;
  dir.write("model.safetensors", shard_with("a").substr(0, 40));
  expect_refused(dir, {"/model.safetensors", "truncated"});
  dir.write("model.safetensors", shard_with("a") + "x");
  expect_refused(dir, {"/model.safetensors", "1 bytes after the last tensor"});
}

TEST(Checkpoint, IndexOfAnotherForm) {
  const TempDir dir;
  for (const char* text : {"", "[]", "7", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})",
                           R"({"weight_map":{"a":1}})", R"({"weight_map":{"a":"x","a":"y"}})"}) {
    SCOPED_TRACE(text);
    dir.write(kIndex, text);
    expect_refused(dir, {kIndex});
  }
  dir.write(kIndex, std::string(100'000, '['));
  expect_refused(dir, {kIndex, "deeper"});
  dir.write(kIndex, R"({"weight_map":)" + std::string(100'000, '['));
  expect_refused(dir, {kIndex, "deeper"});
}

TEST(Checkpoint, IndexMustNotLeaveTheDirectory) {
  const TempDir outer;
  outer.write("evil.safetensors", shard_with("a"));
  std::filesystem::create_directory(outer.path() / "model");
  const auto dir = outer.path() / "model";
  for (const std::string& shard :
       {std::string("../evil.safetensors"), (outer.path() / "evil.safetensors").string(),
        std::string(".."), std::string("x/../../evil.safetensors"),
        std::string("..\\\\evil.safetensors"), std::string(""),
        std::string("evil\\u0000.safetensors")}) {
    SCOPED_TRACE(shard);
    outer.write(std::string("model/") + kIndex, R"({"weight_map":{"a":")" + shard + R"("}})");
    expect_user_error([&] { Checkpoint::open(dir); },
                      {kIndex, "'a'", "leaves the model directory"});
  }
  outer.write(std::string("model/") + kIndex, R"({"weight_map":{"a":"a.bin"}})");
  expect_user_error([&] { Checkpoint::open(dir); }, {"'a'", "'a.bin'", "not a .safetensors"});
}

TEST(Checkpoint, IndexAndShardsDisagree) {
  const TempDir dir;
  dir.write("s1.safetensors", shard_with("a"));
  dir.write(kIndex, R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})");
  expect_refused(dir, {kIndex, "'b'", "'s2.safetensors'", "does not exist"});

  dir.write("s2.safetensors", shard_with("c"));
  expect_refused(dir, {kIndex, "'b'", "not in shard 's2.safetensors'"});

  dir.write(kIndex, R"({"weight_map":{"a":"s2.safetensors","c":"s1.safetensors"}})");
  expect_refused(dir, {kIndex, "'a'", "not in shard 's2.safetensors'"});

  dir.write("s2.safetensors", shard_with("a"));
  dir.write(kIndex, R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})");
  expect_refused(dir, {"s2.safetensors", "'a'", "also in s1.safetensors"});

  dir.write("s2.safetensors", shard_with("a", "BOOL"));
  expect_refused(dir, {"'a'", "also in"});
}

}  // namespace
}  // namespace shunt
