// The folder of compiled kernels. Internal to runtime/jit; jit.h is the interface.
//
//   <cache>/<digest>/kernel.cu      the source
//   <cache>/<digest>/kernel.cubin
//   <cache>/<digest>/kernel.info    "cubin <sha256>", "source <sha256>", then what ptxas said:
//   "registers 34", ... <cache>/failed/<name>.cu        the last source of that name that did not
//   compile
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/jit/nvrtc.h"

namespace shunt::jit {

struct Entry {
  std::string source;
  std::vector<char> cubin;
  Resources resources;
};

class Cache {
 public:
  /// With `create`, makes the folder (0700). Throws UserError if it cannot, or if others may write
  /// to it: whoever can write there decides what runs on the GPU.
  Cache(std::filesystem::path directory, bool create);

  /// nullopt if the entry is missing, incomplete or does not match its digest.
  std::optional<Entry> find(const std::string& digest) const;
  /// Replaces a damaged entry; keeps one that another process has just put there.
  void insert(const std::string& digest, const Entry& entry) const;
  /// Keeps a source that did not compile; returns its path.
  std::filesystem::path keep_failed(const std::string& name, const std::string& source) const;

 private:
  std::filesystem::path directory_;
};

}  // namespace shunt::jit
