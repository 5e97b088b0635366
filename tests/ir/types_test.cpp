#include "ir/types.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace shunt {
namespace {

TEST(Types, NamesRoundTrip) {
  for (DType d : {DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8, DType::f8e4m3}) {
    EXPECT_EQ(parse_dtype(dtype_name(d)), d);
  }
  EXPECT_EQ(parse_dtype("float"), std::nullopt);
  const Type t{DType::bf16, {Dim::symbol("T"), 4, 16}};
  EXPECT_EQ(t.to_string(), "bf16[T, 4, 16]");
  EXPECT_EQ(t.bytes().to_string(), "128*T");
}

TEST(Types, Bf16RoundsToNearestEven) {
  EXPECT_EQ(bf16_from_f32(1.0f), 0x3f80);
  EXPECT_EQ(bf16_from_f32(1.00390625f), 0x3f80);  // halfway, to even
  EXPECT_EQ(bf16_from_f32(1.01171875f), 0x3f82);  // halfway, to even
  EXPECT_EQ(bf16_from_f32(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(f32_from_bf16(bf16_from_f32(std::nanf("")))));
  for (int bits = 0; bits < 0x7f80; ++bits) {
    const auto b = static_cast<uint16_t>(bits);
    ASSERT_EQ(bf16_from_f32(f32_from_bf16(b)), b);
    ASSERT_EQ(f16_from_f32(f32_from_f16(static_cast<uint16_t>(bits % 0x7c00))), bits % 0x7c00);
  }
}

}  // namespace
}  // namespace shunt
