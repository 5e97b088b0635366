// SHA-256 (FIPS 180-4), for header digests of checkpoints and content keys of the kernel cache.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace shunt {

/// Incremental SHA-256: any number of update() calls, then one finish().
class Sha256 {
 public:
  void update(std::span<const std::byte> data);
  void update(std::string_view text);
  /// The digest as 64 lowercase hex digits. The object must not be used afterwards.
  std::string finish_hex();

 private:
  void compress(const uint8_t* block /*[64]*/);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_ = {};  // bytes not yet compressed
  size_t pending_size_ = 0;
  uint64_t total_bytes_ = 0;
};

/// SHA-256 of `data` as 64 lowercase hex digits.
std::string sha256_hex(std::span<const std::byte> data);
std::string sha256_hex(std::string_view text);

}  // namespace shunt
