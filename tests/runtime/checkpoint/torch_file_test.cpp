// .pt files: the good ones of tests/data/pickle, and attacks (generate.py there makes both).
#include "runtime/checkpoint/torch_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "ir/error.h"
#include "runtime/checkpoint/file_reader.h"
#include "tests/paths.h"

namespace shunt {
namespace {

const std::filesystem::path kFolder = std::string(source_dir()) + "/tests/data/pickle";

TorchFile open(const std::string& name) { return TorchFile::open(FileReader(kFolder / name)); }

std::vector<std::byte> bytes_of(const std::string& name, const TensorInfo& t) {
  std::vector<std::byte> bytes(static_cast<size_t>(t.bytes));
  FileReader(kFolder / name).read(t.offset, bytes);
  return bytes;
}

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

void expect_good(const std::string& name) {
  const TorchFile file = open(name);
  const TensorInfo* weight = file.find("module.language_model.a.weight");
  ASSERT_NE(weight, nullptr);
  EXPECT_EQ(weight->dtype, DType::bf16);
  EXPECT_EQ(weight->shape, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(std::to_integer<int>(bytes_of(name, *weight)[23]), 23);
  const TensorInfo* bias = file.find("module.language_model.a.bias");
  ASSERT_NE(bias, nullptr);
  EXPECT_EQ(bias->dtype, DType::f32);
  EXPECT_EQ(bias->bytes, 8);
  EXPECT_EQ(std::to_integer<int>(bytes_of(name, *bias)[0]), 16);  // element 4 of its storage
  EXPECT_EQ(file.find("module.language_model.b.c.weight")->bytes, 16);
  EXPECT_EQ(std::to_integer<int>(bytes_of(name, *file.find("parameter"))[0]), 16);
  EXPECT_TRUE(file.find("scalar")->shape.empty());
  EXPECT_EQ(file.find("empty")->bytes, 0);
  EXPECT_EQ(file.find("nowhere"), nullptr);

  EXPECT_EQ(*file.find_value("checkpoint_version")->real, 3.0);
  EXPECT_EQ(*file.find_value("iteration")->integer, int64_t{1} << 40);
  EXPECT_EQ(*file.find_value("negative")->integer, -(int64_t{1} << 33));
  EXPECT_EQ(*file.find_value("flag")->integer, 1);
  EXPECT_EQ(*file.find_value("num_experts.1")->integer, 8);
  EXPECT_EQ(*file.find_value("name")->text, "gpt\u00e9");
  EXPECT_EQ(*file.find_value("5")->text, "five");
  EXPECT_EQ(file.find_value("huge"), nullptr);
  EXPECT_EQ(file.find_value("nothing"), nullptr);

  EXPECT_NE(error_of([&] { file.find("double"); }).find("float64"), std::string::npos);
  EXPECT_NE(error_of([&] { file.find("transposed"); }).find("[1, 2]"), std::string::npos);
  EXPECT_NE(error_of([&] { file.find_value("args.a"); }).find("types.SimpleNamespace"),
            std::string::npos);
}

TEST(TorchFile, Protocol2) { expect_good("good.pt"); }
TEST(TorchFile, Protocol4) { expect_good("protocol4.pt"); }

TEST(TorchFile, UntypedStorage) {
  const TorchFile file = open("untyped.pt");
  const TensorInfo* w = file.find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->dtype, DType::f8e4m3);
  EXPECT_EQ(std::to_integer<int>(bytes_of("untyped.pt", *w)[5]), 7);
}

TEST(TorchFile, CallsNothing) {
  for (const char* name : {"os_system.pt", "os_system_shape.pt", "os_system_root.pt"}) {
    const TorchFile file = open(name);
    const std::string error = error_of([&] { file.find("w"); });
    EXPECT_NE(error.find("os.system"), std::string::npos) << error;
  }
  const TorchFile file = open("os_system.pt");
  EXPECT_NE(file.find("good"), nullptr);
  EXPECT_NE(error_of([&] { file.find("module.x.weight"); }).find("os.system"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists("/tmp/shunt_a_pickle_was_run"));
}

TEST(TorchFile, RefusesAttacks) {
  const std::map<std::string, std::string> expected = {
      {"bad_memo.pt", "never written"},
      {"big_endian.pt", "little-endian"},
      {"compressed.pt", "is compressed"},
      {"cycle.pt", "nests deeper than 64"},
      {"deep_dict.pt", "nests deeper than 200"},
      {"deep_list.pt", "nests deeper than 200"},
      {"deep_mark.pt", "nests deeper than 200"},
      {"deep_tuple.pt", "nests deeper than 200"},
      {"empty_pickle.pt", "in the middle of an instruction"},
      {"missing_storage.pt", "storage '0' is not in the archive"},
      {"outside_directory.pt", "zip directory at 2147483647 lies outside"},
      {"outside_header.pt", "lies outside the archive"},
      {"outside_offset.pt", "reaches element 5 of a storage of 4"},
      {"outside_size.pt", "lies outside the archive"},
      {"outside_storage.pt", "reaches element 5 of a storage of 4"},
      {"overflow.pt", "overflows"},
      {"overlap.pt", "another name"},
      {"protocol0.pt", "is not read"},
      {"shared.pt", "share parts"},
      {"short_storage.pt", "has 15 bytes, fewer than its 4 elements need"},
      {"truncated.pt", "not a zip archive"},
      {"two_paths.pt", "two values have the path 'a.b'"},
  };
  const std::set<std::string> good = {
      "good.pt",           "protocol4.pt",      "untyped.pt", "os_system.pt", "os_system_shape.pt",
      "os_system_root.pt", "negative_stride.pt"};
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() != ".pt" || good.contains(name)) continue;
    ASSERT_TRUE(expected.contains(name)) << name;
    const std::string error = error_of([&] { open(name); });
    EXPECT_NE(error.find(expected.at(name)), std::string::npos) << name << ": " << error;
    EXPECT_EQ(error.find(entry.path().string()), 0u) << error;
  }
  EXPECT_NE(error_of([] { open("negative_stride.pt").find("w"); }).find("not one that torch.save"),
            std::string::npos);
}

TEST(TorchFile, AnyChangeChangesTheDigest) {
  const FileReader reader(kFolder / "good.pt");
  std::vector<std::byte> bytes(static_cast<size_t>(reader.size()));
  reader.read(0, bytes);
  const std::string digest = zip_directory_digest(MemorySource(bytes), "x");
  EXPECT_EQ(digest, open("good.pt").digest);
  bytes[bytes.size() - 40] ^= std::byte{1};
  EXPECT_NE(zip_directory_digest(MemorySource(bytes), "x"), digest);
}

/// Every byte of the archive flipped, one at a time: refused or read, never a crash.
TEST(TorchFile, SurvivesFlippedBytes) {
  const FileReader reader(kFolder / "good.pt");
  std::vector<std::byte> bytes(static_cast<size_t>(reader.size()));
  reader.read(0, bytes);
  int read = 0;
  for (std::byte& b : bytes) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      b ^= std::byte(flip);
      try {
        const TorchFile file = TorchFile::parse(MemorySource(bytes), "flipped");
        for (const TensorInfo& t : file.tensors) {
          ASSERT_TRUE(t.offset >= 0 && t.bytes >= 0 && t.offset + t.bytes <= reader.size());
        }
        ++read;
      } catch (const UserError& e) {
        EXPECT_EQ(std::string(e.what()).find("flipped"), 0u) << e.what();
      }
      b ^= std::byte(flip);
    }
  }
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace shunt
