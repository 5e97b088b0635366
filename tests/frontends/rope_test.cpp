// Rotary frequencies against numbers computed in double precision from the published formulas.
#include <gtest/gtest.h>

#include "frontends/architecture.h"

namespace shunt {
namespace {

void expect_close(const std::vector<double>& got, const std::vector<double>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i] / expected[i], 1, 1e-6) << i;
}

TEST(Rope, plain) {
  Rope rope;
  rope.rotary_dim = 8;
  expect_close(inverse_frequencies(rope), {1, 0.1, 0.01, 0.001});
}

TEST(Rope, linear_divides_by_the_factor) {
  Rope rope;
  rope.rotary_dim = 4;
  rope.scaling = Rope::Scaling::linear;
  rope.factor = 4;
  expect_close(inverse_frequencies(rope), {0.25, 0.0025});
}

TEST(Rope, llama3_keeps_short_waves_blends_and_stretches_long_ones) {
  Rope rope;
  rope.rotary_dim = 16;
  rope.theta = 500000;
  rope.scaling = Rope::Scaling::llama3;
  rope.factor = 8;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  rope.original_positions = 64;
  expect_close(inverse_frequencies(rope),
               {1, 0.0794030092, 0.00470075387, 0.000911583092, 0.000176776695, 3.4281022e-05,
                6.64786987e-06, 1.28917317e-06});
}

}  // namespace
}  // namespace shunt
