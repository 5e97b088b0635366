// `verify` finds the families and storyteller equal to their goldens through the evaluator and
// through a cpu plan, and finds a golden that was changed in one number.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/tools/program.h"

namespace shunt::test {

namespace {

enum class How { logical, reference, plan };

std::string name_of(How how) {
  return how == How::logical ? "logical" : how == How::reference ? "reference" : "plan";
}

Ran verify(const std::string& model, How how, std::vector<std::string> more = {}) {
  std::vector<std::string> args = {"verify", model, "--target", "cpu"};
  if (how != How::plan) args.push_back("--" + name_of(how));
  args.insert(args.end(), more.begin(), more.end());
  return shunt(args);
}

/// `expected` ids in all: those of a clear margin are equal, and few have none.
void expect_greedy(const std::string& out, int expected) {
  const size_t at = out.find("greedy ids");
  ASSERT_NE(at, std::string::npos) << out;
  const std::string line =
      out.substr(at);  // "greedy ids   191 of 191 equal, 1 with a margin below ..."
  const double equal = number_after(line, "greedy ids"), skipped = number_after(line, " equal, ");
  EXPECT_EQ(equal, number_after(line, " of ")) << line;
  EXPECT_EQ(equal + skipped, expected) << line;
  EXPECT_LE(skipped, expected / 50) << line;
}

struct Case {
  std::string model;
  How how;
};

class Families : public testing::TestWithParam<Case> {};

TEST_P(Families, EqualTheirGolden) {
  const Ran r = verify(data("conformance/" + GetParam().model), GetParam().how);
  EXPECT_EQ(r.code, 0) << r.out << r.err;
  EXPECT_NE(r.out.find("verified\n"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("ok   logits of sequence 1"), std::string::npos) << r.out;
  for (int layer = 0; layer <= 2; ++layer) {
    EXPECT_NE(r.out.find("ok   hidden." + std::to_string(layer)), std::string::npos) << r.out;
  }
  expect_greedy(r.out, 32);
}

std::vector<Case> all_cases() {
  std::vector<Case> out;
  for (const char* model :
       {"llama", "llama_rope3", "mixtral", "mixtral_window", "olmoe", "qwen3_moe"}) {
    for (How how : {How::logical, How::reference, How::plan}) out.push_back({model, how});
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Verify, Families, testing::ValuesIn(all_cases()), [](const auto& info) {
  return info.param.model + "_" + name_of(info.param.how);
});

class Storyteller : public testing::TestWithParam<How> {};

TEST_P(Storyteller, EqualsItsGolden) {
  const Ran r = verify(storyteller(), GetParam(), {"--golden", data("storyteller/golden.json")});
  EXPECT_EQ(r.code, 0) << r.out << r.err;
  for (int prompt = 0; prompt < 4; ++prompt) {
    EXPECT_NE(r.out.find("ok   logits of prompt " + std::to_string(prompt)), std::string::npos)
        << r.out;
  }
  expect_greedy(r.out, 4 * 48);
}

INSTANTIATE_TEST_SUITE_P(Verify, Storyteller,
                         testing::Values(How::logical, How::reference, How::plan),
                         [](const auto& info) { return name_of(info.param); });

TEST(VerifyText, NegativeLogLikelihoodOfStoryteller) {
  const Ran r = verify(storyteller(), How::plan,
                       {"--text", data("storyteller/heldout.txt"), "--tokens", "16384", "--window",
                        "512", "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const auto json = nlohmann::json::parse(r.out);
  EXPECT_EQ(json.at("schema"), 1);
  EXPECT_EQ(json.at("tokens"), 16384);
  EXPECT_EQ(json.at("window"), 512);
  EXPECT_NEAR(json.at("nll").get<double>(), 4.2864, 0.0005);
}

TEST(VerifyText, EvaluatorAndPlanAgree) {
  const std::vector<std::string> text = {
      "--text", data("storyteller/heldout.txt"), "--tokens", "96", "--window", "48"};
  const Ran plan = verify(storyteller(), How::plan, text),
            reference = verify(storyteller(), How::logical, text);
  ASSERT_EQ(plan.code, 0) << plan.err;
  ASSERT_EQ(reference.code, 0) << reference.err;
  EXPECT_NEAR(number_after(plan.out, "likelihood "), number_after(reference.out, "likelihood "),
              1e-4);
}

/// `verify` of qwen3_moe on cpu with a golden that `edit` changed.
Ran verify_edited(const std::function<void(Safetensors&)>& edit,
                  std::vector<std::string> more = {}) {
  const TempDir folder;
  Safetensors golden(data("conformance/qwen3_moe/golden.safetensors"));
  edit(golden);
  golden.write(folder / "golden.safetensors");
  more.insert(more.end(), {"--golden", folder / "golden.safetensors"});
  return verify(data("conformance/qwen3_moe"), How::plan, more);
}

TEST(VerifyBroken, OneHiddenNumber) {
  const Ran r = verify_edited([](Safetensors& g) { g.add_to_f32("hidden.1", 777, 0.01f); });
  EXPECT_EQ(r.code, 1) << r.out << r.err;
  EXPECT_NE(r.out.find("FAIL hidden.1"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("the first that differs is hidden.1"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("ok   hidden.2"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("NOT equal"), std::string::npos) << r.out;
}

TEST(VerifyBroken, TheFirstHiddenStateIsNamed) {
  const Ran r = verify_edited([](Safetensors& g) {
    g.add_to_f32("hidden.2", 5, 0.01f);
    g.add_to_f32("hidden.1", 2000, 0.01f);
  });
  EXPECT_EQ(r.code, 1) << r.out << r.err;
  EXPECT_NE(r.out.find("the first that differs is hidden.1"), std::string::npos) << r.out;
}

TEST(VerifyBroken, OneLogit) {
  const Ran r = verify_edited([](Safetensors& g) { g.add_to_f32("logits", 4000, 0.003f); });
  EXPECT_EQ(r.code, 1) << r.out << r.err;
  EXPECT_NE(r.out.find("FAIL logits of sequence 1"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("ok   logits of sequence 0"), std::string::npos) << r.out;
}

TEST(VerifyBroken, NanIsNotEqual) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Ran r = verify_edited([&](Safetensors& g) { g.add_to_f32("hidden.2", 3, nan); });
  EXPECT_EQ(r.code, 1) << r.out << r.err;
  EXPECT_NE(r.out.find("FAIL hidden.2"), std::string::npos) << r.out;
}

TEST(VerifyBroken, OneGreedyId) {
  const Ran r = verify_edited([](Safetensors& g) {
    const int64_t at = g.header.at("greedy_ids").at("data_offsets").at(0).get<int64_t>();
    g.data[at + 15 * 8] =
        static_cast<char>((g.data[at + 15 * 8] + 1) % 128);  // the last of sequence 0
  });
  EXPECT_EQ(r.code, 1) << r.out << r.err;
  EXPECT_NE(r.out.find("31 of 32 equal"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("sequence 0, step 15"), std::string::npos) << r.out;
}

TEST(VerifyBroken, TolerancesAreFlags) {
  const auto change = [](Safetensors& g) { g.add_to_f32("hidden.1", 777, 0.01f); };
  EXPECT_EQ(verify_edited(change, {"--atol", "0.02"}).code, 0);
  EXPECT_EQ(verify_edited(change, {"--atol", "0.005"}).code, 1);
  EXPECT_EQ(verify_edited([](Safetensors&) {}, {"--atol", "1e-9", "--rtol", "0"}).code, 1);
}

TEST(VerifyBroken, GoldenOfOtherShapesOrIds) {
  const auto refused = [](const std::function<void(Safetensors&)>& edit, const std::string& part) {
    const Ran r = verify_edited(edit);
    EXPECT_EQ(r.code, 2) << r.out << r.err;
    EXPECT_NE(r.err.find(part), std::string::npos) << r.err;
  };
  refused([](Safetensors& g) { g.header["input_ids"]["shape"] = {1, 48}; }, "logits");
  refused([](Safetensors& g) { g.header["greedy_margin"]["shape"] = {1, 32}; }, "greedy_margin");
  refused([](Safetensors& g) { g.header["hidden.1"]["shape"] = {1, 1, 3072}; }, "hidden.1");
  refused([](Safetensors& g) { g.header.erase("logits"); }, "logits");
  refused(
      [](Safetensors& g) {
        g.data[g.header["input_ids"]["data_offsets"][0].get<int64_t>() + 3] = 1;
      },
      "vocabulary");
}

}  // namespace

}  // namespace shunt::test
