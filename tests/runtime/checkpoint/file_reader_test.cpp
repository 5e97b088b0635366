// Byte ranges, mapping, and the check that a file is still the one the plan was compiled from.
#include "runtime/checkpoint/file_reader.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <thread>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "tests/runtime/checkpoint/temp_files.h"

namespace shunt {
namespace {

using test::expect_user_error;
using test::safetensors_file;

constexpr std::string_view kHeader = R"({"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})";

TEST(FileReader, ReadsRangesFromManyThreads) {
  const test::TempDir dir;
  std::string bytes;
  for (int i = 0; i < 100'000; ++i) bytes += static_cast<char>(i % 251);
  const FileReader file(dir.write("f", bytes));
  EXPECT_EQ(file.size(), 100'000);
  std::vector<std::thread> threads;
  std::array<bool, 4> same = {};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::string part(25'000, '\0');
      file.read(25'000 * t, std::as_writable_bytes(std::span(part)));
      same[static_cast<size_t>(t)] = part == bytes.substr(25'000 * static_cast<size_t>(t), 25'000);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(same, (std::array{true, true, true, true}));
}

TEST(FileReader, RangesOutsideTheFileAreOurMistake) {
  const test::TempDir dir;
  const FileReader file(dir.write("f", "1234"));
  std::array<std::byte, 2> two = {};
  EXPECT_THROW(file.read(3, two), InternalError);
  EXPECT_THROW(file.read(-1, two), InternalError);
  EXPECT_THROW(file.read(INT64_MAX, two), InternalError);
  EXPECT_NO_THROW(file.read(2, two));
}

TEST(FileReader, FileThatShrinksWhileItIsOpen) {
  const test::TempDir dir;
  const FileReader file(dir.write("f", "12345678"));
  std::filesystem::resize_file(dir.path() / "f", 4);
  std::array<std::byte, 8> eight = {};
  expect_user_error([&] { file.read(0, eight); }, {"/f", "ends at byte 4"});
}

TEST(FileReader, WhatIsNoFile) {
  const test::TempDir dir;
  expect_user_error([&] { FileReader(dir.path() / "none"); }, {"none", "no such file"});
  expect_user_error([&] { FileReader{dir.path()}; }, {"not a regular file"});
  ASSERT_EQ(::mkfifo((dir.path() / "fifo").c_str(), 0600), 0);
  expect_user_error([&] { FileReader(dir.path() / "fifo"); }, {"fifo", "not a regular file"});
}

TEST(FileReader, MapsTheWholeFile) {
  const test::TempDir dir;
  const MappedFile empty{FileReader(dir.write("e", ""))};
  EXPECT_EQ(empty.size(), 0);
  MappedFile map{FileReader(dir.write("f", "abc"))};  // outlives the reader
  const MappedFile moved(std::move(map));
  ASSERT_EQ(moved.size(), 3);
  EXPECT_EQ(std::to_integer<char>(moved.data()[2]), 'c');
}

TEST(FileReader, ChecksSizeAndHeaderAgainstThePlan) {
  const test::TempDir dir;
  dir.write("model.safetensors", safetensors_file(kHeader, 8));
  const CheckpointFile planned = Checkpoint::open(dir.path()).files().at(0);
  EXPECT_NO_THROW(FileReader(dir.path(), planned));

  // Other weights under the same header are another fine-tune of the same model: allowed.
  dir.write("model.safetensors", test::raw_file(kHeader.size(), kHeader, "other678"));
  EXPECT_NO_THROW(FileReader(dir.path(), planned));

  std::string renamed(kHeader);
  renamed[2] = 'y';
  dir.write("model.safetensors", safetensors_file(renamed, 8));
  expect_user_error([&] { FileReader(dir.path(), planned); },
                    {"model.safetensors", "header", "compile the plan again"});

  dir.write("model.safetensors", safetensors_file(kHeader, 9));
  expect_user_error([&] { FileReader(dir.path(), planned); },
                    {"model.safetensors", "changed", "compile the plan again"});

  std::string garbage = safetensors_file(kHeader, 8);
  garbage[7] = '\x7f';
  dir.write("model.safetensors", garbage);
  expect_user_error([&] { FileReader(dir.path(), planned); }, {"model.safetensors"});

  std::filesystem::remove(dir.path() / "model.safetensors");
  expect_user_error([&] { FileReader(dir.path(), planned); },
                    {"model.safetensors", "no such file"});
}

}  // namespace
}  // namespace shunt
