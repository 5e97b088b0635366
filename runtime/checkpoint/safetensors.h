// The safetensors header: 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes.
//
// Accepted: N <= 100,000,000; JSON that starts with '{'; no duplicate keys, at any level; every
// entry has exactly dtype, shape and data_offsets; shape * dtype == size; tensors lie one after the
// other, cover the data to the file's last byte and do not overlap. All sums and products are
// checked for overflow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"

namespace shunt {

class FileReader;

constexpr int64_t kMaxSafetensorsHeader = 100'000'000;  // bytes, as in the reference implementation

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of their offsets; offsets absolute; file = 0
  std::vector<UnreadableTensor> unreadable;  // file = 0
  std::string digest;                        // see CheckpointFile::header_digest
};

/// Parses a header from memory. `prefix` is the start of a file of `file_size` bytes and must hold
/// the whole header (it may hold more). `file` names the file in errors. Throws UserError.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> prefix, int64_t file_size,
                                           const std::string& file);

/// Reads and parses the header of an open file.
SafetensorsHeader read_safetensors_header(const FileReader& file);

/// Digest of the header of an open file, without parsing its JSON.
std::string safetensors_header_digest(const FileReader& file);

}  // namespace shunt
