// Opens, checks, reads and maps checkpoint files with POSIX calls. Entry point: FileReader. Tested
// by tests/runtime/checkpoint/file_reader_test.cpp.
#include "runtime/checkpoint/file_reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "ir/error.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/checkpoint/zip.h"

namespace shunt {

FileReader::FileReader(const std::filesystem::path& path) : path_(path.string()) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer. It changes nothing for regular files.
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    const int error = errno;
    if (error == ENOENT)
      user_error("{}: no such file; check the path and that the download is complete", path_);
    user_error("{}: cannot open: {}", path_, std::strerror(error));
  }
  struct stat info = {};
  const bool regular = ::fstat(descriptor_, &info) == 0 && S_ISREG(info.st_mode);
  if (!regular) {
    ::close(descriptor_);
    user_error("{}: not a regular file; give the path of the file itself", path_);
  }
  size_ = info.st_size;
}

FileReader::FileReader(const std::filesystem::path& directory, const CheckpointFile& expected)
    : FileReader(directory /
                 expected.name) {  // delegated: the destructor runs if a check below throws
  if (size_ != expected.size) {
    plan_error(
        "{}: {} bytes, but {} when the plan was compiled; the file changed: compile the plan again",
        path_, size_, expected.size);
  }
  const bool torch = expected.name.ends_with(".pt");
  const std::string digest =
      torch ? zip_directory_digest(FileSource(*this), path_) : safetensors_header_digest(*this);
  if (digest != expected.header_digest) {
    plan_error(
        "{}: its header is not the one the plan was compiled from; the file changed: compile the "
        "plan again",
        path_);
  }
}

FileReader::FileReader(FileReader&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

FileReader::~FileReader() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FileReader::read(int64_t offset, std::span<std::byte> out) const {
  const auto wanted = static_cast<int64_t>(out.size());
  SHUNT_CHECK(offset >= 0 && wanted <= size_ && offset <= size_ - wanted,
              "read of {} bytes at {} lies outside {} ({} bytes)", wanted, offset, path_, size_);
  while (!out.empty()) {
    const ssize_t n = ::pread(descriptor_, out.data(), out.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) user_error("{}: cannot read at byte {}: {}", path_, offset, std::strerror(errno));
    if (n == 0)
      user_error("{}: ends at byte {}, was {} bytes when opened; do not change it while it is read",
                 path_, offset, size_);
    out = out.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

MappedFile::MappedFile(const FileReader& file) : size_(file.size()) {
  if (size_ == 0) return;  // mmap refuses length 0
  void* p =
      ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
  if (p == MAP_FAILED)
    user_error("{}: cannot map into memory: {}", file.path(), std::strerror(errno));
  data_ = static_cast<const std::byte*>(p);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
}

}  // namespace shunt
