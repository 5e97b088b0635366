// The kernel compiler and its cache: keys, hits, damage, sealed runs, errors.
#include "runtime/jit/jit.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <fstream>

#include "ir/error.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

class Jit : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "shunt_jit_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    options_.cache_dir = root_ / "kernels";
    options_.headers = headers_;
    options_.threads = 2;
    options_.target = "sm_80";
  }
  void TearDown() override { fs::remove_all(root_); }

  JitResult compile(const JitSource& source) {
    return compile_all(std::span(&source, 1), options_).at(0);
  }
  std::string error_of(const JitSource& source) {
    try {
      compile(source);
    } catch (const UserError& e) {
      return e.what();
    }
    return "";
  }

  fs::path root_;
  std::vector<EmbeddedHeader> headers_ = {
      {"a.cuh", "#pragma once\n#include \"deep/b.cuh\"\n__device__ int a() { return b(); }\n"},
      {"deep/b.cuh", "#pragma once\n  #  include \"a.cuh\"\n__device__ int b() { return 2; }\n"},
      {"unused.cuh", "this would not compile"},
  };
  JitOptions options_;
  const JitSource kernel_{
      "twice", "#include \"a.cuh\"\nextern \"C\" __global__ void twice(int* x) { *x *= a(); }\n"};
};

TEST_F(Jit, CompilesThenFinds) {
  const JitResult cold = compile(kernel_);
  EXPECT_FALSE(cold.from_cache);
  EXPECT_GT(cold.seconds, 0);
  EXPECT_GT(cold.registers, 0);
  EXPECT_EQ(cold.spill_bytes, 0);
  EXPECT_EQ(cold.digest, jit_digest(kernel_, options_));
  ASSERT_GT(cold.cubin.size(), 4u);
  EXPECT_EQ(std::string(cold.cubin.data() + 1, 3), "ELF");

  options_.allow_compile = false;
  const JitResult warm = compile(kernel_);
  EXPECT_TRUE(warm.from_cache);
  EXPECT_EQ(warm.seconds, 0);
  EXPECT_EQ(warm.cubin, cold.cubin);
  EXPECT_EQ(warm.source, kernel_.text);
  EXPECT_EQ(warm.registers, cold.registers);
}

TEST_F(Jit, TheCacheIsPrivateAndHoldsWholeEntriesOnly) {
  const JitResult result = compile(kernel_);
  struct stat info {};
  ASSERT_EQ(::stat(options_.cache_dir.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  int entries = 0;
  for (const auto& entry : fs::directory_iterator(options_.cache_dir)) {
    EXPECT_EQ(entry.path().filename(), result.digest);
    ++entries;
  }
  EXPECT_EQ(entries, 1);

  fs::permissions(options_.cache_dir, fs::perms::others_write, fs::perm_options::add);
  EXPECT_NE(error_of(kernel_).find("can be written by others"), std::string::npos);
}

TEST_F(Jit, ADamagedEntryIsCompiledAgain) {
  const JitResult first = compile(kernel_);
  for (const char* name : {"kernel.cubin", "kernel.cu", "kernel.info"}) {
    const fs::path path = options_.cache_dir / first.digest / name;
    {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(3);
      file.put('!');
    }
    const JitResult again = compile(kernel_);
    EXPECT_FALSE(again.from_cache) << name;
    EXPECT_EQ(again.cubin, first.cubin) << name;
    EXPECT_TRUE(compile(kernel_).from_cache) << name;

    fs::resize_file(path, 5);
    EXPECT_FALSE(compile(kernel_).from_cache) << name;
    fs::remove(path);
    EXPECT_FALSE(compile(kernel_).from_cache) << name;
    EXPECT_TRUE(compile(kernel_).from_cache) << name;
  }
  int left_over = 0;
  for (const auto& entry : fs::directory_iterator(options_.cache_dir))
    left_over += entry.path().filename() != first.digest;
  EXPECT_EQ(left_over, 0);
}

TEST_F(Jit, EverythingReachedIsInTheKey) {
  const std::string key = jit_digest(kernel_, options_);
  EXPECT_EQ(jit_digest({"another name", kernel_.text}, options_), key);
  EXPECT_NE(jit_digest({"twice", kernel_.text + " "}, options_), key);

  headers_[2].text = "edited, but not included";
  EXPECT_EQ(jit_digest(kernel_, options_), key);
  headers_[1].text = "#pragma once\n#include \"a.cuh\"\n__device__ int b() { return 3; }\n";
  EXPECT_NE(jit_digest(kernel_, options_), key);
  options_.target = "sm_90a";
  const std::string other = jit_digest(kernel_, options_);
  headers_[1].text = "#pragma once\n  #  include \"a.cuh\"\n__device__ int b() { return 2; }\n";
  EXPECT_NE(jit_digest(kernel_, options_), key);
  EXPECT_NE(jit_digest(kernel_, options_), other);
}

TEST_F(Jit, ASealedRunNamesWhatIsMissing) {
  options_.allow_compile = false;
  const std::string error = error_of(kernel_);
  EXPECT_NE(error.find("kernel twice"), std::string::npos) << error;
  EXPECT_NE(error.find("nothing may be compiled"), std::string::npos) << error;
  EXPECT_FALSE(fs::exists(options_.cache_dir)) << "a sealed run makes no folder";
}

TEST_F(Jit, AnErrorShowsTheLogAndKeepsTheSource) {
  const JitSource bad{"broken", "extern \"C\" __global__ void broken() { undeclared = 1; }\n"};
  const std::string error = error_of(bad);
  EXPECT_NE(error.find("kernel broken"), std::string::npos) << error;
  EXPECT_NE(error.find("undeclared"), std::string::npos) << error;
  const fs::path kept = options_.cache_dir / "failed" / "broken.cu";
  EXPECT_NE(error.find(kept.string()), std::string::npos) << error;
  std::ifstream file(kept);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(text, bad.text);
}

TEST_F(Jit, AMissingHeaderIsNamed) {
  const std::string error = error_of({"lost", "#include \"nowhere.cuh\"\n"});
  EXPECT_NE(error.find("kernel lost"), std::string::npos) << error;
  EXPECT_NE(error.find("\"nowhere.cuh\""), std::string::npos) << error;
}

TEST_F(Jit, ManyAtOnceInOrder) {
  std::vector<JitSource> sources;
  for (int i = 0; i < 12; ++i) {
    const std::string name = "k" + std::to_string(i % 10);
    sources.push_back({name, "extern \"C\" __global__ void " + name + "(int* x) { *x += 1; }\n"});
  }
  const std::vector<JitResult> results = compile_all(sources, options_);
  ASSERT_EQ(results.size(), sources.size());
  for (size_t i = 0; i < sources.size(); ++i) EXPECT_EQ(results[i].source, sources[i].text);
  EXPECT_EQ(results[11].digest, results[1].digest);
  EXPECT_NE(results[2].digest, results[1].digest);
}

}  // namespace
}  // namespace shunt
