#include "ir/types.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace shunt {
namespace {

TEST(Types, NamesRoundTrip) {
  for (DType d :
       {DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8, DType::f8e4m3}) {
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

TEST(Types, F16IsIeeeHalf) {
  for (const auto& [bits, value] : std::vector<std::pair<uint16_t, float>>{{0x3c00, 1.0f},
                                                                           {0xc000, -2.0f},
                                                                           {0x7bff, 65504.0f},
                                                                           {0x0001, 0x1p-24f},
                                                                           {0x0400, 0x1p-14f}}) {
    EXPECT_EQ(f16_from_f32(value), bits);
    EXPECT_EQ(f32_from_f16(bits), value);
  }
  EXPECT_EQ(f16_from_f32(65519.0f), 0x7bff);
  EXPECT_EQ(f16_from_f32(65520.0f), 0x7c00);
  EXPECT_EQ(f16_from_f32(0x1p-25f), 0);             // halfway, to even
  EXPECT_EQ(f16_from_f32(0x1.8p-24f), 2);           // halfway, to even
  EXPECT_EQ(f16_from_f32(1.00048828125f), 0x3c00);  // halfway, to even
  EXPECT_TRUE(std::isnan(f32_from_f16(f16_from_f32(std::nanf("")))));
}

TEST(Types, ElementsOfQuantisedWeights) {
  EXPECT_EQ(f32_from_f8e4m3(0x38), 1);
  EXPECT_EQ(f32_from_f8e4m3(0xbc), -1.5f);
  EXPECT_EQ(f32_from_f8e4m3(0x7e), 448);
  EXPECT_EQ(f32_from_f8e4m3(0x01), 0x1p-9f);
  EXPECT_EQ(f32_from_f8e4m3(0x07), 7 * 0x1p-9f);
  EXPECT_EQ(f32_from_f8e4m3(0x08), 0x1p-6f);
  EXPECT_TRUE(std::signbit(f32_from_f8e4m3(0x80)));
  EXPECT_TRUE(std::isnan(f32_from_f8e4m3(0x7f)) && std::isnan(f32_from_f8e4m3(0xff)));
  const float magnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (uint8_t i = 0; i < 8; ++i) {
    EXPECT_EQ(f32_from_e2m1(i), magnitudes[i]);
    EXPECT_EQ(f32_from_e2m1(0xf8 | i), -magnitudes[i]);  // the upper half is not its
  }
  EXPECT_EQ(f32_from_e8m0(127), 1);
  EXPECT_EQ(f32_from_e8m0(0), 0x1p-127f);
  EXPECT_EQ(f32_from_e8m0(254), 0x1p127f);
  EXPECT_TRUE(std::isnan(f32_from_e8m0(255)));
}

}  // namespace
}  // namespace shunt
