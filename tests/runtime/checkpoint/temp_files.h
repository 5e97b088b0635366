// Helpers of the checkpoint tests: a temporary folder, safetensors bytes, and the check of an error
// message.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>

#include "ir/error.h"

namespace shunt::test {

/// A fresh folder that is removed at the end of the test.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "shunt_test_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

/// A file with header length `length`, the header text and the data.
inline std::string raw_file(uint64_t length, std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i));
  return bytes + std::string(header) + std::string(data);
}

/// A file whose header length is right and whose data are `data_bytes` bytes 0, 1, 2, ...
inline std::string safetensors_file(std::string_view header, size_t data_bytes) {
  std::string data;
  for (size_t i = 0; i < data_bytes; ++i) data += static_cast<char>(i);
  return raw_file(header.size(), header, data);
}

/// Runs `f`, which must throw a UserError of one line that contains every one of `parts`.
template <class F>
void expect_user_error(F f, std::initializer_list<std::string_view> parts) {
  try {
    f();
    ADD_FAILURE() << "no error was thrown";
  } catch (const UserError& e) {
    const std::string what = e.what();
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    for (std::string_view part : parts)
      EXPECT_NE(what.find(part), std::string::npos) << what << "\nlacks " << part;
  }
}

}  // namespace shunt::test
