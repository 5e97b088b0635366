// SHA-256 against the vectors of FIPS 180-4 and of sha256sum.
#include "runtime/checkpoint/digest.h"

#include <gtest/gtest.h>

#include <string>

namespace shunt {
namespace {

TEST(Digest, KnownVectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Digest, DoesNotDependOnHowTheDataAreCut) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>(i * 7);
  for (size_t step : {1, 3, 55, 56, 63, 64, 65, 127, 128, 999}) {
    Sha256 sha;
    for (size_t i = 0; i < text.size(); i += step)
      sha.update(std::string_view(text).substr(i, step));
    EXPECT_EQ(sha.finish_hex(), sha256_hex(text)) << step;
  }
}

TEST(Digest, EveryLengthAroundABlockIsPaddedDifferently) {
  for (size_t n = 54; n < 66; ++n) {
    EXPECT_NE(sha256_hex(std::string(n, 'x')), sha256_hex(std::string(n + 1, 'x')));
  }
  EXPECT_EQ(sha256_hex(std::string(64, 'x')),
            "7ce100971f64e7001e8fe5a51973ecdfe1ced42befe7ee8d5fd6219506b5393c");
}

}  // namespace
}  // namespace shunt
