// The weight loader: pitches, transposes, large tiles, and files that changed.
#include "runtime/load.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <random>

#include "ir/error.h"
#include "runtime/checkpoint/checkpoint.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

/// A safetensors file of one u8 tensor whose bytes are random.
class LoadTest : public testing::Test {
 protected:
  void make(size_t data_bytes) {
    directory_ = fs::temp_directory_path() /
                 ("shunt_load_test_" +
                  std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    std::string header = R"({"w":{"dtype":"U8","shape":[)" + std::to_string(data_bytes) +
                         R"(],"data_offsets":[0,)" + std::to_string(data_bytes) + "]}}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t length = header.size();
    std::mt19937 random(3);
    data_.resize(data_bytes);
    for (char& c : data_) c = static_cast<char>(random());
    std::ofstream out(directory_ / "model.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << header;
    out.write(data_.data(), static_cast<std::streamsize>(data_.size()));
    out.close();
    begin_ = static_cast<int64_t>(8 + header.size());
    const CheckpointFile f = Checkpoint::open(directory_).files().at(0);
    files_ = {{f.name, f.size, f.header_digest}};
  }
  void TearDown() override { fs::remove_all(directory_); }

  /// Runs one Read over a destination filled with 0x55 and returns it.
  std::string load(Read r, size_t bytes, int threads = 2) {
    r.file = 0;
    r.from_offset += begin_;
    std::string to(bytes, 0x55);
    const ReadJob job{&r, reinterpret_cast<std::byte*>(to.data())};
    const int64_t total = r.rows * r.row_bytes;
    int64_t last = 0;
    WeightLoader loader(files_, directory_, -1, threads);
    loader.run({&job, 1}, total, [&](int64_t done, int64_t of) {
      EXPECT_GT(done, last);
      EXPECT_EQ(of, total);
      last = done;
    });
    EXPECT_EQ(last, total);
    return to;
  }

  fs::path directory_;
  std::vector<PlanFile> files_;
  std::string data_;
  int64_t begin_ = 0;
};

Read rows_of(int64_t rows, int64_t row_bytes, int64_t from_pitch, int64_t to_pitch,
             int64_t from_offset = 0) {
  Read r;
  r.tensor = "w";
  r.rows = rows;
  r.row_bytes = row_bytes;
  r.from_pitch = from_pitch;
  r.to_pitch = to_pitch;
  r.from_offset = from_offset;
  r.element_bytes = 2;
  return r;
}

TEST_F(LoadTest, Pitches) {
  make(4096);
  for (const int64_t from_pitch : {64, 100}) {
    for (const int64_t to_pitch : {64, 80}) {
      const std::string to = load(rows_of(20, 64, from_pitch, to_pitch, 7), 20 * 80);
      for (int64_t r = 0; r < 20; ++r) {
        EXPECT_EQ(std::memcmp(&to[static_cast<size_t>(r * to_pitch)],
                              &data_[static_cast<size_t>(7 + r * from_pitch)], 64),
                  0);
        if (to_pitch == 80 && r < 19) {
          EXPECT_EQ(to[static_cast<size_t>(r * 80 + 64)], 0x55);  // gaps untouched
        }
      }
    }
  }
}

TEST_F(LoadTest, ManyTiles) {
  make((20 << 20) + 10);
  EXPECT_EQ(load(rows_of(1, 20 << 20, 20 << 20, 20 << 20, 10), 20 << 20, 3), data_.substr(10));
  // Rows of more than a tile, with a gap on both sides.
  const std::string to = load(rows_of(2, 9 << 20, 10 << 20, (9 << 20) + 256), (18 << 20) + 256);
  EXPECT_EQ(to.substr(0, 9 << 20), data_.substr(0, 9 << 20));
  EXPECT_EQ(to.substr((9 << 20) + 256), data_.substr(10 << 20, 9 << 20));
  EXPECT_EQ(to[9 << 20], 0x55);
}

TEST_F(LoadTest, Transposes) {
  make(300 * 130 * 4);
  for (const int64_t e : {1, 2, 4, 8}) {
    const int64_t rows = 300, columns = 130 * 4 / 8;
    Read r = rows_of(rows, columns * e, columns * e, rows * e);
    r.transpose_rows = rows;
    r.element_bytes = e;
    const std::string to = load(r, static_cast<size_t>(rows * columns * e));
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t c = 0; c < columns; ++c) {
        ASSERT_EQ(
            std::memcmp(&to[static_cast<size_t>((c * rows + i) * e)],
                        &data_[static_cast<size_t>((i * columns + c) * e)], static_cast<size_t>(e)),
            0)
            << i << " " << c << " of " << e << " bytes";
      }
    }
  }
}

/// Element (n, k) of the matrix that `r` reads, straight from the file's bytes.
float element(const Read& r, const std::string& file, int64_t n, int64_t k) {
  const Dequantize& d = *r.dequantize;
  const auto byte = [&](int64_t at) { return static_cast<uint8_t>(file[static_cast<size_t>(at)]); };
  const int64_t row = r.from_offset + n * r.from_pitch;
  const float x = d.payload == DType::f8e4m3 ? f32_from_f8e4m3(byte(row + k))
                                             : f32_from_e2m1(byte(row + k / 2) >> (k % 2 * 4));
  const int64_t at = d.scale_offset + n / d.group_rows * d.scale_pitch +
                     k / d.group_columns * dtype_bytes(d.scale);
  if (d.scale == DType::u8) return x * f32_from_e8m0(byte(at));
  return x * floats_from(
                 std::as_bytes(std::span(file))
                     .subspan(static_cast<size_t>(at), static_cast<size_t>(dtype_bytes(d.scale))),
                 d.scale)[0];
}

TEST_F(LoadTest, QuantisedMatrices) {
  make(40000);
  for (char& c : data_) c = static_cast<char>(c & 0x3f);  // no NaN, scales of a sane size
  std::fstream(directory_ / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary)
      .seekp(begin_)
      .write(data_.data(), static_cast<std::streamsize>(data_.size()));
  for (const auto& [payload, scale, group_rows, group_columns] :
       {std::tuple{DType::f8e4m3, DType::f32, 16, 12},
        {DType::f8e4m3, DType::bf16, 128, 128},
        {DType::u8, DType::u8, 1, 32}}) {
    for (const DType result : {DType::bf16, DType::f32}) {
      for (const int64_t step : {1, 3}) {
        for (const bool transposed : {false, true}) {
          const int64_t rows = 33, columns = 29, e = dtype_bytes(result);
          Read r = rows_of(rows, columns * e, 130, transposed ? rows * e + 6 * e : columns * e + 4);
          if (transposed) r.transpose_rows = rows;
          r.element_bytes = e;
          r.dequantize =
              Dequantize{payload,       scale, result, 0, "s", 20000 + begin_, 60, group_rows,
                         group_columns, 5,     step,   7, step};
          const std::string to = load(r, 40000);
          r.dequantize->scale_offset -= begin_;
          for (int64_t i = 0; i < rows; ++i) {
            for (int64_t c = 0; c < columns; ++c) {
              const float want = element(r, data_, 5 + i * step, 7 + c * step);
              const int64_t at = transposed ? c * r.to_pitch + i * e : i * r.to_pitch + c * e;
              const float got =
                  floats_from(std::as_bytes(std::span(to))
                                  .subspan(static_cast<size_t>(at), static_cast<size_t>(e)),
                              result)[0];
              ASSERT_EQ(got, result == DType::f32 ? want : f32_from_bf16(bf16_from_f32(want)))
                  << i << " " << c;
            }
          }
        }
      }
    }
  }
}

TEST_F(LoadTest, NothingToRead) {
  make(16);
  WeightLoader loader(files_, directory_, -1, 4);
  loader.run({}, 0, nullptr);
}

TEST_F(LoadTest, ChangedFile) {
  make(64);
  files_[0].size += 1;
  try {
    WeightLoader loader(files_, directory_, -1, 1);
    ADD_FAILURE() << "no error";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("model.safetensors"), std::string::npos);
  }
}

TEST_F(LoadTest, ErrorOfAThreadReachesTheCaller) {
  make(1000);
  WeightLoader loader(files_, directory_, -1, 3);
  fs::resize_file(directory_ / "model.safetensors",
                  static_cast<uintmax_t>(begin_ + 500));  // truncated after opening
  std::string to(1000, 0);
  Read r = rows_of(1, 1000, 1000, 1000, begin_);
  r.file = 0;
  const ReadJob job{&r, reinterpret_cast<std::byte*>(to.data())};
  EXPECT_THROW(loader.run({&job, 1}, 1000, nullptr), UserError);
}

}  // namespace
}  // namespace shunt
