// What the fuzzers run on one input. A target returns for a good input and for one that is refused
// with a UserError; anything else (a crash, another exception, a broken property) ends the process.
//
// Each fuzz_<name>.cpp is a libFuzzer program of one target; regressions_test.cpp runs the inputs
// kept under tests/data/fuzz/<name>/ through the same functions. How to build and run:
// tests/fuzz/README.md.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/error.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/checkpoint/torch_file.h"
#include "runtime/engine/tokenizer.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::fuzz {

inline void require(bool property) {
  if (!property) std::abort();
}

/// An error must be one line that names the file.
inline void check_error(const UserError& error, std::string_view file) {
  const std::string_view what = error.what();
  require(what.starts_with(file));
  require(what.find('\n') == std::string_view::npos);
}

/// `data` is a whole safetensors file.
inline void safetensors(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  if (size >= 8) {
    // The caller's duty: the header is in memory. Longer ones are refused by the file's size.
    uint64_t length = 0;
    std::memcpy(&length, data, 8);
    if (length > size - 8 && length <= kMaxSafetensorsHeader) return;
  }
  try {
    const auto file_size = static_cast<int64_t>(size);
    int64_t total = 0;
    for (const TensorInfo& tensor : parse_safetensors_header(bytes, file_size, "fuzz").tensors) {
      require(tensor.offset >= 8 && tensor.bytes >= 0 && tensor.bytes <= file_size - tensor.offset);
      total += tensor.bytes;
    }
    require(total <= file_size);
  } catch (const UserError& e) {
    check_error(e, "fuzz");
  }
}

/// What a reader of `file` must promise of every tensor in `size` bytes.
inline void check_torch_file(const TorchFile& file, int64_t size) {
  for (const TensorInfo& tensor : file.tensors) {
    require(tensor.offset >= 0 && tensor.bytes >= 0 && tensor.offset <= size &&
            tensor.bytes <= size - tensor.offset);
  }
  constexpr size_t kLookups = 5;
  for (size_t i = 0; i < std::min(kLookups, file.tensors.size()); ++i) {
    require(file.find(file.tensors[i].name) == &file.tensors[i]);
  }
  for (size_t i = 0; i < std::min(kLookups, file.opaque.size()); ++i) {
    const TorchOpaque& opaque = file.opaque[i];
    try {
      file.find(opaque.path);
      require(false);
    } catch (const UserError& e) {
      check_error(e, "fuzz");
    }
  }
}

/// `data` is a whole .pt file; or, after a byte that is not 'P', a pickle to be wrapped into one
/// with a storage "0" of 64 bytes, so that the fuzzer need not keep an archive's sizes right.
inline void torch_file(const uint8_t* data, size_t size) {
  std::string archive(reinterpret_cast<const char*>(data), size);
  if (size > 0 && data[0] != 'P') {
    std::string body, directory;
    const auto u16 = [](size_t n) { return std::string{char(n & 0xff), char(n >> 8 & 0xff)}; };
    const auto u32 = [&](size_t n) { return u16(n & 0xffff) + u16(n >> 16 & 0xffff); };
    const auto add = [&](const std::string& name, const std::string& bytes) {
      const std::string sizes = u32(bytes.size()) + u32(bytes.size()) + u16(name.size()) + u16(0);
      const std::string start = u16(20) + u16(0) + u16(0) + u32(0) + u32(0) + sizes;
      directory +=
          "PK" + u16(20) + start + u16(0) + u16(0) + u16(0) + u32(0) + u32(body.size()) + name;
      body += "PK" + start + name + bytes;
    };
    add("a/data.pkl", archive.substr(1));
    add("a/data/0", std::string(64, 'x'));
    archive = body + directory + "PK" + u32(0) + u16(2) + u16(2) + u32(directory.size()) +
              u32(body.size()) + u16(0);
  }
  try {
    const auto bytes = std::as_bytes(std::span(archive));
    check_torch_file(TorchFile::parse(MemorySource(bytes), "fuzz"),
                     static_cast<int64_t>(archive.size()));
  } catch (const UserError& e) {
    check_error(e, "fuzz");
  }
}

/// `data` is a tokenizer.json, then optionally a NUL and a text to encode.
inline void tokenizer(const uint8_t* data, size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const std::string_view json = all.substr(0, all.find('\0'));
  const std::string_view given =
      json.size() < all.size() ? all.substr(json.size() + 1) : std::string_view();
  const std::string fixed = "It's 1234 <x> caf\u00e9 e\u0301\u65e5 a\n\n  b ";
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(json, "fuzz");
    for (const std::string_view text : {std::string_view(fixed), given}) {
      std::vector<int32_t> ids;
      try {
        ids = tokenizer.encode(text);
      } catch (const UserError&) {
        continue;  // no UTF-8, a character without token, or too many steps of a pattern
      }
      for (int32_t id : ids) require(id >= 0 && id < tokenizer.vocab_size());
      StreamDecoder stream(tokenizer);
      std::string streamed;
      for (int32_t id : ids) streamed += stream.push(id);
      streamed += stream.finish();
      require(streamed == tokenizer.decode(ids));
      require(!::shunt::tokenizer::find_invalid_utf8(streamed));
      StreamDecoder continued(tokenizer);
      continued.start_after(ids);
      for (int32_t id : ids) continued.push(id);
      continued.finish();
    }
  } catch (const UserError& e) {
    check_error(e, "fuzz");
  }
}

}  // namespace shunt::fuzz
