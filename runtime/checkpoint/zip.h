// The directory of a zip archive whose entries are stored, not compressed: what torch.save writes.
//
// Only the central directory and the entries' local headers are read. Accepted: one disk, method 0,
// no encryption, zip64 where sizes need it, and entries that lie inside the file before the central
// directory without overlap. Everything else is a UserError that names the file and the entry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace shunt {

class FileReader;

/// Bytes that can be read at any offset: a file, or memory.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual int64_t size() const = 0;
  /// Fills `out` with the bytes at `offset`, which must lie inside.
  virtual void read(int64_t offset, std::span<std::byte> out) const = 0;
};

class FileSource : public ByteSource {
 public:
  explicit FileSource(const FileReader& file) : file_(file) {}
  int64_t size() const override;
  void read(int64_t offset, std::span<std::byte> out) const override;

 private:
  const FileReader& file_;
};

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> bytes) : bytes_(bytes) {}
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  void read(int64_t offset, std::span<std::byte> out) const override;

 private:
  std::span<const std::byte> bytes_;
};

struct ZipEntry {
  std::string name;    // as in the archive; never used as a path
  int64_t offset = 0;  // of its bytes, from the start of the file
  int64_t bytes = 0;
};

struct ZipDirectory {
  std::vector<ZipEntry> entries;  // sorted by name, no two equal
  /// SHA-256, lowercase hex, of the file from the central directory to its end. The directory holds
  /// a checksum of every entry, so that a changed entry changes the digest.
  std::string digest;

  /// nullptr if there is none.
  const ZipEntry* find(const std::string& name) const;
};

/// `file` names the file in errors.
ZipDirectory read_zip_directory(const ByteSource& source, const std::string& file);

/// Digest of an archive's directory (ZipDirectory::digest), without reading its entries.
std::string zip_directory_digest(const ByteSource& source, const std::string& file);

}  // namespace shunt
