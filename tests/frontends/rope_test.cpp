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

TEST(Rope, yarn_blends_between_the_dimensions_that_its_turns_name) {
  Rope rope;
  rope.rotary_dim = 16;
  rope.scaling = Rope::Scaling::yarn;
  rope.theta = 150000;
  rope.factor = 32;
  rope.original_positions = 64;
  rope.truncate = false;
  expect_close(inverse_frequencies(rope),
               {1, 0.0852490992, 0.00158791484, 0.000357944587, 8.0687153e-05, 1.81883367e-05,
                4.09997848e-06, 9.2420895e-07});
  rope.theta = 10000;
  rope.factor = 40;
  rope.original_positions = 4096;
  rope.truncate = true;
  expect_close(inverse_frequencies(rope), {1, 0.316227766, 0.1, 0.0239147248, 0.005125,
                                           0.000849862121, 2.5e-05, 7.90569415e-06});
}

TEST(Rope, longrope_takes_its_long_factors_where_a_sequence_may_be_long) {
  Rope rope;
  rope.rotary_dim = 4;
  rope.scaling = Rope::Scaling::longrope;
  rope.original_positions = 32;
  rope.short_factors = {1, 2};
  rope.long_factors = {4, 5};
  rope.short_scale = 1.1;
  rope.long_scale = 1.2;
  expect_close(inverse_frequencies(rope, 32), {1, 0.005});
  expect_close(inverse_frequencies(rope, 33), {0.25, 0.002});
  EXPECT_EQ(rope_scale(rope, 32), 1.1);
  EXPECT_EQ(rope_scale(rope, 33), 1.2);
}

}  // namespace
}  // namespace shunt
