// The regression corpus of the config fuzzer, without libFuzzer: no input may crash or throw
// anything but a UserError.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/fuzz/fuzz_config.cpp"
#include "tests/paths.h"

namespace shunt {
namespace {

TEST(FuzzCorpus, config) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(source_dir()) +
                                                               "/tests/data/fuzz/config")) {
    SCOPED_TRACE(entry.path().string());
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    EXPECT_NO_THROW(
        LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
    ++files;
  }
  EXPECT_GE(files, 15);
}

}  // namespace
}  // namespace shunt
