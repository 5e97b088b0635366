#include "ir/dim.h"

#include <gtest/gtest.h>

#include "ir/error.h"

namespace shunt {
namespace {

TEST(Dim, CanonicalTextAndEquality) {
  const Dim t = Dim::symbol("T"), s = Dim::symbol("S");
  EXPECT_EQ((t * 8 + 16).to_string(), "8*T+16");
  EXPECT_EQ((s + t - s).to_string(), "T");
  EXPECT_EQ((t - t).to_string(), "0");
  EXPECT_EQ((s + 1), Dim::parse("S+1"));
  EXPECT_EQ(Dim::parse("-T+3").to_string(), "-T+3");
  for (const char* text : {"0", "7", "T", "8*T+16", "S+2*T", "-3*S"}) {
    EXPECT_EQ(Dim::parse(text).to_string(), text);
  }
  for (const char* bad : {"", "8T", "T*", "+", "8*", "T T", "9999999999999999999"}) {
    EXPECT_THROW(Dim::parse(bad), UserError) << bad;
  }
}

TEST(Dim, EvaluateDivideMultiple) {
  const Dim d = Dim::parse("8*T+16");
  EXPECT_EQ(d.evaluate({{"T", 3}}), 40);
  EXPECT_THROW(d.evaluate({}), InternalError);
  EXPECT_EQ(d.divided_by(8), Dim::parse("T+2"));
  EXPECT_FALSE(d.divisible_by(3));
  int64_t k = 0;
  EXPECT_TRUE(Dim::parse("8*T").is_multiple_of(Dim::symbol("T"), &k));
  EXPECT_EQ(k, 8);
  EXPECT_FALSE(Dim::parse("8*T+1").is_multiple_of(Dim::symbol("T"), &k));
  EXPECT_THROW(Dim::symbol("T") * Dim::symbol("T"), InternalError);
  EXPECT_THROW(Dim(int64_t{1} << 62) * Dim(4), InternalError);
}

TEST(DimExpr, ParseBindEvaluate) {
  DimExpr e = DimExpr::parse("ceildiv(8*T,128)*min(S,4)+max(2,T)");
  const DimEnv env = {{"T", 33}, {"S", 9}};
  EXPECT_EQ(e.evaluate(env), 3 * 4 + 33);
  e.bind({{"S", 1, 9}, {"T", 1, 64}});
  const int64_t values[] = {9, 33};
  EXPECT_EQ(e.evaluate(values), 3 * 4 + 33);
  EXPECT_THROW(DimExpr::parse("T").bind({}), UserError);
  EXPECT_EQ(DimExpr(Dim::parse("8*T+16")).evaluate(env), 280);
  EXPECT_EQ(DimExpr::ceildiv(DimExpr(Dim::symbol("T")), DimExpr(32)).evaluate(env), 2);
  EXPECT_EQ((DimExpr(Dim::parse("T+1")) * DimExpr(2)).evaluate(env), 68);
  for (const char* bad : {"", "T+", "ceildiv(1)", "min(1,2", "(1", "1)", "T$"}) {
    EXPECT_THROW(DimExpr::parse(bad), UserError) << bad;
  }
  EXPECT_THROW(DimExpr::parse(std::string(1000, '(')), UserError);
}

}  // namespace
}  // namespace shunt
