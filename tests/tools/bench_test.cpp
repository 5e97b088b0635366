// `bench`: a tiny run has every field, and numbers that fit each other.
#include "tools/bench.h"

#include <gtest/gtest.h>

#include "tests/tools/program.h"

namespace shunt::test {

namespace {

using nlohmann::json;

TEST(Bench, JsonFields) {
  const Ran r =
      shunt({"bench", cpu_plan(), "-p", "16,40", "-n", "4", "-b", "1,3", "-r", "2", "-o", "json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const json out = json::parse(r.out);
  EXPECT_EQ(out.at("schema"), 1);
  EXPECT_EQ(out.at("target"), "cpu");
  EXPECT_EQ(out.at("routing"), "model");
  EXPECT_EQ(out.at("repetitions"), 2);
  ASSERT_EQ(out.at("cases").size(), 4u);
  for (const json& c : out.at("cases")) {
    for (const char* rate : {"prefill_tokens_per_s", "decode_tokens_per_s"}) {
      const double low = c.at(rate).at("low"), median = c.at(rate).at("median"),
                   high = c.at(rate).at("high");
      EXPECT_GT(low, 0);
      EXPECT_LE(low, median);
      EXPECT_LE(median, high);
    }
    const double batch = c.at("batch"), experts = c.at("distinct_experts_per_layer");
    EXPECT_GE(experts, 2);
    EXPECT_LE(experts, std::min(16.0, 2 * batch));
    EXPECT_GT(c.at("decode_step_ms"), 0);
    EXPECT_GT(c.at("decode_flops"), 0);
    EXPECT_GT(c.at("prefill_flops"), c.at("decode_flops"));
    // A step reads two experts a layer at least and all weights and little more at most.
    EXPECT_GT(c.at("decode_bytes"), 2e6);
    EXPECT_LT(c.at("decode_bytes"), 2e7);
  }
}

TEST(Bench, Table) {
  const Ran r = shunt({"bench", data("conformance/llama"), "--target", "cpu", "-p", "8", "-n", "2",
                       "-b", "2", "-r", "1"});
  ASSERT_EQ(r.code, 0) << r.err;
  std::istringstream lines(r.out);
  std::vector<int64_t> bars;
  for (std::string line; std::getline(lines, line);)
    bars.push_back(std::count(line.begin(), line.end(), '|'));
  ASSERT_EQ(bars.size(), 3u) << r.out;
  EXPECT_EQ(bars[0], bars[1]);
  EXPECT_EQ(bars[0], bars[2]) << r.out;
}

TEST(Bench, UniformRoutingSpreadsOverExperts) {
  const Ran r = shunt({"bench", storyteller(), "--target", "cpu", "-p", "4", "-n", "2", "-b", "40",
                       "-r", "1", "--routing", "uniform", "-o", "json"});
  ASSERT_EQ(r.code, 0) << r.err;
  // 80 draws of 16: all but 1 in 175 of the experts are drawn.
  EXPECT_GT(json::parse(r.out).at("cases")[0].at("distinct_experts_per_layer").get<double>(), 14.5);
}

TEST(Bench, OfSeveralRanksOneCounts) {
  const auto bench = [](std::vector<std::string> mesh) {
    std::vector<std::string> args{"bench", storyteller(), "--target", "cpu", "-p", "16", "-n",
                                  "2",     "-b",          "8",        "-r",  "1",  "-o", "json"};
    args.insert(args.end(), mesh.begin(), mesh.end());
    const Ran r = shunt(args);
    EXPECT_EQ(r.code, 0) << r.err;
    return json::parse(r.out).at("cases")[0];
  };
  const json alone = bench({});
  for (const auto& mesh : {std::vector<std::string>{"--tp", "2", "--etp", "2"},
                           {"--tp", "2", "--ep", "2"},
                           {"--dp", "2", "--ep", "2"}}) {
    const json half = bench(mesh);
    SCOPED_TRACE(mesh[0] + mesh[1] + mesh[2] + mesh[3]);
    EXPECT_EQ(half.at("distinct_experts_per_layer"), alone.at("distinct_experts_per_layer"));
    // Half the experts and, but for what is replicated, half the rest.
    EXPECT_NEAR(half.at("decode_flops").get<double>() / alone.at("decode_flops").get<double>(), 0.5,
                0.05);
    const double bytes =
        half.at("decode_bytes").get<double>() / alone.at("decode_bytes").get<double>();
    EXPECT_GT(bytes, 0.45);
    EXPECT_LT(bytes, 0.8);
  }
}

TEST(Bench, ProfileNamesSteps) {
  const Ran r =
      shunt({"bench", cpu_plan(), "-p", "8", "-n", "2", "-b", "1", "-r", "1", "--profile"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("routed_linear"), std::string::npos) << r.err;
}

}  // namespace

}  // namespace shunt::test
