// Every input kept under tests/data/fuzz/<target>/ once more through its target: seeds, and what
// fuzzing has found.
#include <gtest/gtest.h>

#include <filesystem>

#include "runtime/checkpoint/strict_json.h"
#include "tests/fuzz/targets.h"
#include "tests/paths.h"

namespace shunt {
namespace {

using Target = void (*)(const uint8_t*, size_t);

void run_all(const std::string& name, Target target) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(source_dir()) +
                                                               "/tests/data/fuzz/" + name)) {
    SCOPED_TRACE(entry.path().string());
    const std::string bytes = read_text_file(entry.path(), 10'000'000);
    target(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    ++count;
  }
  EXPECT_GE(count, 5);
}

TEST(FuzzRegressions, Safetensors) { run_all("safetensors", fuzz::safetensors); }
TEST(FuzzRegressions, Tokenizer) { run_all("tokenizer", fuzz::tokenizer); }
TEST(FuzzRegressions, TorchFile) { run_all("torch_file", fuzz::torch_file); }

}  // namespace
}  // namespace shunt
