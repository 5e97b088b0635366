// Checks safetensors headers. Entry point: parse_safetensors_header(). Tested by
// tests/runtime/checkpoint/safetensors_test.cpp and tests/fuzz/fuzz_safetensors.cpp.
#include "runtime/checkpoint/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "ir/error.h"
#include "runtime/checkpoint/digest.h"
#include "runtime/checkpoint/file_reader.h"
#include "runtime/checkpoint/safetensors_entries.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt {

using safetensors::Entry;
using safetensors::kBroken;

namespace {

constexpr size_t kLengthBytes = 8;

/// Bytes of a tensor, from shape and dtype; throws if that overflows or is no whole number of
/// bytes.
int64_t checked_bytes(const Entry& entry, const std::string& file) {
  int64_t bits = entry.dtype->bits;
  for (int64_t size : entry.shape) {
    if (__builtin_mul_overflow(bits, size, &bits)) {
      user_error("{}: tensor {}: shape [{}] overflows; {}", file, quote_name(entry.name),
                 fmt::join(entry.shape, ", "), kBroken);
    }
  }
  if (bits % 8 != 0) {
    user_error("{}: tensor {}: {} bits of {} are no whole bytes; {}", file, quote_name(entry.name),
               bits, entry.dtype->name, kBroken);
  }
  return bits / 8;
}

/// Entries, sorted by offset, must follow each other from 0 to `data_bytes` without gap or overlap.
void check_ranges(std::vector<Entry>& entries, int64_t data_bytes, const std::string& file) {
  std::ranges::stable_sort(entries, {},
                           [](const Entry& e) { return std::pair(e.range[0], e.range[1]); });
  int64_t end = 0;
  for (const Entry& entry : entries) {
    const int64_t begin = entry.range[0];
    const std::string name = quote_name(entry.name);
    if (entry.range[1] < begin) {
      user_error("{}: tensor {}: data_offsets end at {} before they begin at {}; {}", file, name,
                 entry.range[1], begin, kBroken);
    }
    if (begin < end)
      user_error(
          "{}: tensor {}: overlaps the one before it (byte {} of the data is used twice); {}", file,
          name, begin, kBroken);
    if (begin > end)
      user_error("{}: tensor {}: {} unused bytes before it; {}", file, name, begin - end, kBroken);
    end = entry.range[1];
    if (end > data_bytes) {
      user_error(
          "{}: tensor {}: ends at byte {} of the data, but the file has only {} (truncated?); "
          "fetch it again",
          file, name, end, data_bytes);
    }
    const int64_t bytes = checked_bytes(entry, file);
    if (bytes != end - begin) {
      user_error("{}: tensor {}: {} [{}] needs {} bytes, data_offsets give it {}; {}", file, name,
                 entry.dtype->name, fmt::join(entry.shape, ", "), bytes, end - begin, kBroken);
    }
  }
  if (end != data_bytes) {
    user_error("{}: {} bytes after the last tensor; {}", file, data_bytes - end, kBroken);
  }
}

/// The JSON's length N, checked against the file's size.
int64_t header_length(std::span<const std::byte> prefix, int64_t file_size,
                      const std::string& file) {
  if (file_size < static_cast<int64_t>(kLengthBytes) || prefix.size() < kLengthBytes) {
    user_error("{}: {} bytes, too short for a safetensors file; fetch it again", file, file_size);
  }
  uint64_t n = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) n |= std::to_integer<uint64_t>(prefix[i]) << (8 * i);
  if (n > static_cast<uint64_t>(kMaxSafetensorsHeader)) {
    user_error(
        "{}: header of {} bytes, more than the format's limit of {}; is this a safetensors file?",
        file, n, kMaxSafetensorsHeader);
  }
  const auto length = static_cast<int64_t>(n);
  if (length > file_size - static_cast<int64_t>(kLengthBytes)) {
    user_error("{}: header of {} bytes, but the file has only {} (truncated?); fetch it again",
               file, length, file_size);
  }
  return length;
}

/// The file's first 8 + N bytes.
std::vector<std::byte> read_header_bytes(const FileReader& file) {
  std::byte length[kLengthBytes] = {};
  if (file.size() >= static_cast<int64_t>(kLengthBytes)) file.read(0, length);
  const int64_t n = header_length(length, file.size(), file.path());
  std::vector<std::byte> bytes(kLengthBytes + static_cast<size_t>(n));
  file.read(0, bytes);
  return bytes;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> prefix, int64_t file_size,
                                           const std::string& file) {
  const int64_t length = header_length(prefix, file_size, file);
  const size_t header_bytes = kLengthBytes + static_cast<size_t>(length);
  SHUNT_CHECK(prefix.size() >= header_bytes, "{}: the header is not all in memory", file);
  const auto* text = reinterpret_cast<const char*>(prefix.data()) + kLengthBytes;
  if (length == 0 || text[0] != '{') {
    user_error("{}: the header does not start with '{{'; is this a safetensors file?", file);
  }
  // nlohmann takes a NUL for the end of the text; what follows it would go unread.
  if (std::string_view(text, static_cast<size_t>(length)).find('\0') != std::string_view::npos) {
    user_error("{}: a NUL byte in the header; {}", file, kBroken);
  }
  std::vector<Entry> entries = safetensors::read_entries({text, static_cast<size_t>(length)}, file);
  check_ranges(entries, file_size - static_cast<int64_t>(header_bytes), file);

  SafetensorsHeader header;
  header.digest = sha256_hex(prefix.first(header_bytes));
  for (Entry& entry : entries) {
    if (!entry.dtype->dtype) {
      header.unreadable.push_back({std::move(entry.name), std::string(entry.dtype->name), 0});
      continue;
    }
    header.tensors.push_back({.name = std::move(entry.name),
                              .dtype = *entry.dtype->dtype,
                              .shape = std::move(entry.shape),
                              .file = 0,
                              .offset = static_cast<int64_t>(header_bytes) + entry.range[0],
                              .bytes = entry.range[1] - entry.range[0]});
  }
  return header;
}

SafetensorsHeader read_safetensors_header(const FileReader& file) {
  return parse_safetensors_header(read_header_bytes(file), file.size(), file.path());
}

std::string safetensors_header_digest(const FileReader& file) {
  return sha256_hex(read_header_bytes(file));
}

}  // namespace shunt
