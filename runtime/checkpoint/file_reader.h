// Read-only access to the byte ranges of a checkpoint file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace shunt {

struct CheckpointFile;

/// An open regular file. Moves, does not copy; closes itself.
class FileReader {
 public:
  /// Opens `path`. Throws UserError if it is missing, unreadable or no regular file.
  explicit FileReader(const std::filesystem::path& path);
  /// Opens `directory`/`expected.name` and checks that its size and header digest are still those
  /// of `expected`. Throws UserError otherwise: the file changed since the plan was compiled.
  FileReader(const std::filesystem::path& directory, const CheckpointFile& expected);
  FileReader(FileReader&& other) noexcept;
  FileReader& operator=(FileReader&&) = delete;
  ~FileReader();

  /// Fills `out` with the bytes at `offset`. Any number of threads may read at once.
  /// Throws UserError if the file ends before (it was truncated meanwhile) or cannot be read.
  void read(int64_t offset, std::span<std::byte> out) const;

  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

/// A read-only memory map of a whole file. Needs the FileReader only while it is constructed.
/// A file that is truncated while mapped raises SIGBUS on access: where that may happen, use
/// FileReader::read. Tensors in it need not be aligned to their element size.
class MappedFile {
 public:
  explicit MappedFile(const FileReader& file);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;  // [size_], null for an empty file
  int64_t size_ = 0;
};

}  // namespace shunt
