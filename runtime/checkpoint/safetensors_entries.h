// The JSON of a safetensors header as a list of entries, before their bytes are accounted for;
// internal to safetensors.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ir/types.h"

namespace shunt::safetensors {

/// How errors about a malformed header end.
inline constexpr std::string_view kBroken =
    "the file is broken or was made by another tool: fetch or convert it again";

struct FormatDType {
  std::string_view name;
  int bits;
  // nullopt: legal in a file, but Shunt does not read it. Exponents (e8m0) are read as their bits.
  std::optional<DType> dtype;
};

/// One entry as written; offsets still relative to the data.
struct Entry {
  std::string name;
  const FormatDType* dtype = nullptr;
  std::vector<int64_t> shape;
  std::vector<int64_t> range;  // data_offsets: begin, end
  bool has_shape = false;
  bool has_range = false;
};

/// Reads the JSON `text`. Every entry has a dtype, a shape and a range of two numbers; no name, key
/// or metadata key appears twice. Throws UserError that begins with `file`.
std::vector<Entry> read_entries(std::string_view text, const std::string& file);

}  // namespace shunt::safetensors
