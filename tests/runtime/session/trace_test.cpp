// Sums by name, and trace text that is JSON.
#include "runtime/trace.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace shunt {
namespace {

const std::vector<StepTime> kSteps = {{"norm", "model.layers.0", 1e-6, 100, 10},
                                      {"linear", "model.layers.0.\"attn\"", 4e-6, 2000, 4000},
                                      {"norm", "model.layers.1", 2e-6, 100, 10}};

TEST(Trace, TotalsByName) {
  const auto totals = totals_by_name(kSteps);
  ASSERT_EQ(totals.size(), 2u);
  EXPECT_EQ(totals[0].name, "linear");
  EXPECT_EQ(totals[1].name, "norm");
  EXPECT_EQ(totals[1].calls, 2);
  EXPECT_DOUBLE_EQ(totals[1].seconds, 3e-6);
  EXPECT_EQ(totals[1].bytes, 200);
}

TEST(Trace, IsJson) {
  const auto json = nlohmann::json::parse(trace_json(kSteps, find_target("sm_90a")));
  const auto& events = json.at("traceEvents");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1].at("args").at("loc"), "model.layers.0.\"attn\"");
  EXPECT_NEAR(events[2].at("ts").get<double>(), 5.0, 1e-9);
  EXPECT_NEAR(events[1].at("args").at("GB/s").get<double>(), 0.5, 1e-9);
  EXPECT_TRUE(nlohmann::json::parse(trace_json({}, find_target("cpu"))).at("traceEvents").empty());
}

}  // namespace
}  // namespace shunt
