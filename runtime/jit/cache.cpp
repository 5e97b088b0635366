// Reads and writes the folder of compiled kernels: whole entries or none. Entry point: jit::Cache.
// Covered by tests/runtime/jit/jit_test.cpp.
#include "runtime/jit/cache.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <sstream>

#include "ir/error.h"
#include "runtime/checkpoint/digest.h"

namespace shunt::jit {

namespace fs = std::filesystem;

namespace {

std::optional<std::string> read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  if (file.bad()) return std::nullopt;
  return std::move(text).str();
}

void write_file(const fs::path& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) user_error("cannot write {} (is the disk full?)", path.string());
}

std::string_view view(const std::vector<char>& bytes) { return {bytes.data(), bytes.size()}; }

std::string info_text(const Entry& entry) {
  const Resources& r = entry.resources;
  return fmt::format(
      "cubin {}\nsource {}\nregisters {}\nspill_bytes {}\nstack_bytes {}\nsmem_bytes {}\n",
      sha256_hex(view(entry.cubin)), sha256_hex(entry.source), r.registers, r.spill_bytes,
      r.stack_bytes, r.smem_bytes);
}

/// A folder inside the cache that is removed again unless it was renamed into place.
struct TemporaryFolder {
  fs::path path;
  explicit TemporaryFolder(const fs::path& parent) {
    std::string name = (parent / ".new-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr)
      user_error("cannot write in the kernel cache {}", parent.string());
    path = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
};

}  // namespace

Cache::Cache(fs::path directory, bool create) : directory_(std::move(directory)) {
  std::error_code error;
  if (create && !fs::exists(directory_, error)) {
    fs::create_directories(directory_.parent_path(), error);
    // Another process may win the race to make it: what counts is the check below.
    ::mkdir(directory_.c_str(), 0700);
  }
  struct stat info {};
  if (::stat(directory_.c_str(), &info) != 0) {
    if (!create) return;  // nothing will be found in it
    user_error("cannot make the kernel cache {}: choose another folder with SHUNT_CACHE_DIR",
               directory_.string());
  }
  if (!S_ISDIR(info.st_mode))
    user_error("the kernel cache {} is not a folder", directory_.string());
  if (info.st_uid != ::geteuid() || (info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    user_error(
        "the kernel cache {} can be written by others: `chmod 700` it if it is yours, or choose "
        "another folder "
        "with SHUNT_CACHE_DIR",
        directory_.string());
  }
}

std::optional<Entry> Cache::find(const std::string& digest) const {
  const fs::path folder = directory_ / digest;
  const auto info = read_file(folder / "kernel.info");
  if (!info) return std::nullopt;
  auto source = read_file(folder / "kernel.cu");
  auto cubin = read_file(folder / "kernel.cubin");
  if (!source || !cubin) return std::nullopt;

  std::map<std::string, int> numbers;
  std::istringstream lines(*info);
  std::string key, digest_of_file;
  lines >> key >> digest_of_file;
  if (key != "cubin" || digest_of_file != sha256_hex(*cubin)) return std::nullopt;
  lines >> key >> digest_of_file;
  if (key != "source" || digest_of_file != sha256_hex(*source)) return std::nullopt;
  for (int value; lines >> key >> value;) numbers[key] = value;

  Entry entry;
  entry.source = std::move(*source);
  entry.cubin.assign(cubin->begin(), cubin->end());
  entry.resources = {numbers["registers"], numbers["spill_bytes"], numbers["stack_bytes"],
                     numbers["smem_bytes"]};
  return entry;
}

void Cache::insert(const std::string& digest, const Entry& entry) const {
  const TemporaryFolder fresh(directory_);
  write_file(fresh.path / "kernel.cu", entry.source);
  write_file(fresh.path / "kernel.cubin", view(entry.cubin));
  write_file(fresh.path / "kernel.info", info_text(entry));
  const fs::path folder = directory_ / digest;
  std::error_code error;
  fs::rename(fresh.path, folder, error);
  if (!error || find(digest)) return;
  // A damaged entry is in the way: move it aside, so that no reader sees it half removed.
  const TemporaryFolder damaged(directory_);
  fs::rename(folder, damaged.path / "entry", error);
  fs::rename(fresh.path, folder, error);
  if (error && !find(digest)) {
    user_error("cannot write the kernel cache entry {}: {}", folder.string(), error.message());
  }
}

fs::path Cache::keep_failed(const std::string& name, const std::string& source) const {
  const fs::path folder = directory_ / "failed";
  fs::create_directories(folder);
  const fs::path path = folder / (name + ".cu");
  write_file(path, source);
  return path;
}

}  // namespace shunt::jit
