// Reads and checks the directory of a stored zip archive. Entry point: read_zip_directory(). Tested
// by tests/runtime/checkpoint/torch_file_test.cpp and tests/fuzz/fuzz_torch_file.cpp.
#include "runtime/checkpoint/zip.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "ir/error.h"
#include "runtime/checkpoint/digest.h"
#include "runtime/checkpoint/file_reader.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt {

namespace {

constexpr int64_t kMaxDirectory = 256 << 20;  // bytes
constexpr int64_t kMaxEntries = 2'000'000;
constexpr int64_t kLocalHeader = 30, kCentralHeader = 46, kEnd = 22, kLocator = 20, kEnd64 = 56;
constexpr uint32_t kLocalMagic = 0x04034b50, kCentralMagic = 0x02014b50, kEndMagic = 0x06054b50;
constexpr uint32_t kLocatorMagic = 0x07064b50, kEnd64Magic = 0x06064b50;
constexpr std::string_view kBroken = "the file is broken: copy or save it again";

/// Little-endian numbers of a byte range; the caller keeps `at` inside.
class Bytes {
 public:
  explicit Bytes(std::span<const std::byte> bytes) : bytes_(bytes) {}
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  uint64_t number(int64_t at, int width) const {
    SHUNT_CHECK(at >= 0 && at + width <= size(), "zip: read of {} at {} of {}", width, at, size());
    uint64_t n = 0;
    for (int i = 0; i < width; ++i) {
      n |= std::to_integer<uint64_t>(bytes_[static_cast<size_t>(at + i)]) << (8 * i);
    }
    return n;
  }
  uint32_t u32(int64_t at) const { return static_cast<uint32_t>(number(at, 4)); }
  uint32_t u16(int64_t at) const { return static_cast<uint32_t>(number(at, 2)); }
  std::string text(int64_t at, int64_t n) const {
    SHUNT_CHECK(at >= 0 && n >= 0 && at + n <= size(), "zip: text of {} at {}", n, at);
    return {reinterpret_cast<const char*>(bytes_.data()) + at, static_cast<size_t>(n)};
  }

 private:
  std::span<const std::byte> bytes_;
};

std::vector<std::byte> read_bytes(const ByteSource& source, int64_t offset, int64_t n) {
  std::vector<std::byte> bytes(static_cast<size_t>(n));
  source.read(offset, bytes);
  return bytes;
}

struct End {
  int64_t directory = 0;  // offset of the central directory
  int64_t bytes = 0;      // of it
  int64_t entries = 0;
  int64_t at = 0;  // offset of the first end record: where the directory must end
};

/// A 64-bit field as an offset or size inside the file.
int64_t inside(uint64_t value, int64_t file_size, std::string_view what, const std::string& file) {
  if (value > static_cast<uint64_t>(file_size)) {
    user_error("{}: {} {} lies outside the file of {} bytes; {}", file, what, value, file_size,
               kBroken);
  }
  return static_cast<int64_t>(value);
}

/// The zip64 end record that the locator before `end_at` points to.
End read_end64(const ByteSource& source, int64_t end_at, const std::string& file) {
  if (end_at < kLocator + kEnd64) user_error("{}: zip64 end record missing; {}", file, kBroken);
  const auto locator_bytes = read_bytes(source, end_at - kLocator, kLocator);
  const Bytes locator(locator_bytes);
  if (locator.u32(0) != kLocatorMagic)
    user_error("{}: zip64 end record missing; {}", file, kBroken);
  End end;
  end.at = inside(locator.number(8, 8), end_at - kLocator - kEnd64, "zip64 end record at", file);
  const auto record_bytes = read_bytes(source, end.at, kEnd64);
  const Bytes record(record_bytes);
  if (record.u32(0) != kEnd64Magic) user_error("{}: zip64 end record missing; {}", file, kBroken);
  if (record.u32(16) != 0 || record.u32(20) != 0 || record.number(24, 8) != record.number(32, 8)) {
    user_error("{}: an archive of several disks; {}", file, kBroken);
  }
  end.entries = inside(record.number(32, 8), kMaxEntries, "number of entries", file);
  end.bytes = inside(record.number(40, 8), end.at, "zip directory of size", file);
  end.directory = inside(record.number(48, 8), end.at, "zip directory at", file);
  return end;
}

/// The end record, which is the file's last 22 bytes: torch.save writes no comment after it.
End read_end(const ByteSource& source, const std::string& file) {
  const int64_t size = source.size();
  if (size < kEnd) {
    user_error("{}: {} bytes, too short for a file of torch.save; fetch it again", file, size);
  }
  const auto bytes = read_bytes(source, size - kEnd, kEnd);
  const Bytes record(bytes);
  if (record.u32(0) != kEndMagic || record.u16(20) != 0) {
    user_error(
        "{}: not a zip archive of torch.save (truncated, or saved by PyTorch before 1.6); fetch it "
        "again, or save it again with a newer PyTorch",
        file);
  }
  const bool wide = record.u16(8) == 0xffff || record.u16(10) == 0xffff ||
                    record.u32(12) == 0xffffffff || record.u32(16) == 0xffffffff;
  End end;
  if (wide) {
    end = read_end64(source, size - kEnd, file);
  } else {
    if (record.u16(4) != 0 || record.u16(6) != 0 || record.u16(8) != record.u16(10)) {
      user_error("{}: an archive of several disks; {}", file, kBroken);
    }
    end.at = size - kEnd;
    end.entries = record.u16(10);
    end.bytes = inside(record.u32(12), end.at, "zip directory of size", file);
    end.directory = inside(record.u32(16), end.at, "zip directory at", file);
  }
  // A zip64 end record may stand between directory and end even where it is not needed.
  if (end.bytes > kMaxDirectory || end.directory > end.at - end.bytes) {
    user_error("{}: zip directory of {} bytes at {} lies outside the file of {}; {}", file,
               end.bytes, end.directory, size, kBroken);
  }
  return end;
}

/// What a directory record says of an entry, before its local header is read.
struct Record {
  std::string name;
  uint64_t header = 0, bytes = 0;
  int64_t length = 0;  // of the record itself
};

/// Replaces fields of 0xffffffff by those of the zip64 extra field.
void read_extra64(const Bytes& d, int64_t begin, int64_t end, bool sizes[3], uint64_t* fields[3],
                  const std::string& file, const std::string& name) {
  for (int64_t at = begin; at + 4 <= end;) {
    const int64_t id = d.u16(at), n = d.u16(at + 2);
    if (n > end - at - 4) break;
    if (id == 1) {
      int64_t from = at + 4;
      for (int i = 0; i < 3; ++i) {
        if (!sizes[i]) continue;
        if (from + 8 > at + 4 + n) break;
        *fields[i] = d.number(from, 8);
        sizes[i] = false;
        from += 8;
      }
    }
    at += 4 + n;
  }
  if (sizes[0] || sizes[1] || sizes[2]) {
    user_error("{}: zip entry {}: its 64-bit sizes are missing; {}", file, quote_name(name),
               kBroken);
  }
}

Record read_record(const Bytes& d, int64_t at, const std::string& file) {
  if (at + kCentralHeader > d.size() || d.u32(at) != kCentralMagic) {
    user_error("{}: the zip directory ends before its last entry; {}", file, kBroken);
  }
  const int64_t name = d.u16(at + 28), extra = d.u16(at + 30), comment = d.u16(at + 32);
  Record r;
  r.length = kCentralHeader + name + extra + comment;
  if (r.length > d.size() - at) {
    user_error("{}: the zip directory ends before its last entry; {}", file, kBroken);
  }
  r.name = d.text(at + kCentralHeader, name);
  if ((d.u16(at + 8) & 1) != 0) {
    user_error("{}: zip entry {} is encrypted; save the file with torch.save", file,
               quote_name(r.name));
  }
  uint64_t packed = d.u32(at + 20);
  r.bytes = d.u32(at + 24);
  r.header = d.u32(at + 42);
  bool wide[3] = {r.bytes == 0xffffffff, packed == 0xffffffff, r.header == 0xffffffff};
  uint64_t* fields[3] = {&r.bytes, &packed, &r.header};
  const int64_t extra_at = at + kCentralHeader + name;
  read_extra64(d, extra_at, extra_at + extra, wide, fields, file, r.name);
  if (d.u16(at + 10) != 0 || packed != r.bytes) {
    user_error(
        "{}: zip entry {} is compressed; torch.save stores entries as they are: unpack it and "
        "save it again",
        file, quote_name(r.name));
  }
  return r;
}

/// Where the entry's bytes begin, from its local header, which lies before `limit`.
ZipEntry locate(const ByteSource& source, const Record& r, int64_t limit, const std::string& file) {
  const auto outside = [&] {
    user_error("{}: zip entry {} of {} bytes at {} lies outside the archive; {}", file,
               quote_name(r.name), r.bytes, r.header, kBroken);
  };
  const auto room = static_cast<uint64_t>(limit);
  if (r.header > room || room - r.header < static_cast<uint64_t>(kLocalHeader)) outside();
  const auto at = static_cast<int64_t>(r.header);
  const auto bytes = read_bytes(source, at, kLocalHeader);
  const Bytes header(bytes);
  if (header.u32(0) != kLocalMagic) {
    user_error("{}: zip entry {} has no header at {}; {}", file, quote_name(r.name), at, kBroken);
  }
  const int64_t name = header.u16(26), extra = header.u16(28);
  ZipEntry entry{r.name, at + kLocalHeader + name + extra, 0};
  if (entry.offset > limit || r.bytes > static_cast<uint64_t>(limit - entry.offset)) outside();
  entry.bytes = static_cast<int64_t>(r.bytes);
  const auto local = read_bytes(source, at + kLocalHeader, name);
  if (Bytes(local).text(0, name) != r.name) {
    user_error("{}: zip entry {} has another name in its header; {}", file, quote_name(r.name),
               kBroken);
  }
  return entry;
}

void check_overlap(const std::vector<ZipEntry>& entries, const std::string& file) {
  std::vector<const ZipEntry*> order;
  for (const ZipEntry& e : entries) order.push_back(&e);
  std::ranges::sort(order, {}, [](const ZipEntry* e) { return e->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes <= order[i]->offset - kLocalHeader) continue;
    user_error("{}: zip entries {} and {} overlap; {}", file, quote_name(order[i - 1]->name),
               quote_name(order[i]->name), kBroken);
  }
}

}  // namespace

int64_t FileSource::size() const { return file_.size(); }

void FileSource::read(int64_t offset, std::span<std::byte> out) const { file_.read(offset, out); }

void MemorySource::read(int64_t offset, std::span<std::byte> out) const {
  SHUNT_CHECK(
      offset >= 0 && offset <= size() && static_cast<int64_t>(out.size()) <= size() - offset,
      "read of {} bytes at {} lies outside {}", out.size(), offset, size());
  if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
}

const ZipEntry* ZipDirectory::find(const std::string& name) const {
  const auto it = std::ranges::lower_bound(entries, name, {}, &ZipEntry::name);
  return it != entries.end() && it->name == name ? &*it : nullptr;
}

std::string zip_directory_digest(const ByteSource& source, const std::string& file) {
  const End end = read_end(source, file);
  return sha256_hex(read_bytes(source, end.directory, source.size() - end.directory));
}

ZipDirectory read_zip_directory(const ByteSource& source, const std::string& file) {
  const End end = read_end(source, file);
  const auto bytes = read_bytes(source, end.directory, end.bytes);
  const Bytes directory(bytes);
  if (end.entries > end.bytes / kCentralHeader) {
    user_error("{}: the zip directory ends before its last entry; {}", file, kBroken);
  }
  ZipDirectory out;
  int64_t at = 0;
  for (int64_t i = 0; i < end.entries; ++i) {
    const Record record = read_record(directory, at, file);
    at += record.length;
    out.entries.push_back(locate(source, record, end.directory, file));
  }
  std::ranges::sort(out.entries, {}, &ZipEntry::name);
  const auto twice = std::ranges::adjacent_find(out.entries, {}, &ZipEntry::name);
  if (twice != out.entries.end()) {
    user_error("{}: two zip entries are named {}; {}", file, quote_name(twice->name), kBroken);
  }
  check_overlap(out.entries, file);
  out.digest = zip_directory_digest(source, file);
  return out;
}

}  // namespace shunt
