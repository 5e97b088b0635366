// `run`: the golden text of storyteller, batches equal to single runs, seeds, stop tokens, ids, and
// how it ends.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/tools/program.h"

namespace shunt::test {

namespace {

using nlohmann::json;

std::string generated(const std::vector<std::string>& flags) {
  std::vector<std::string> args = {"run", cpu_plan(), "-q"};
  args.insert(args.end(), flags.begin(), flags.end());
  const Ran r = shunt(args);
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.err, "") << "-q is quiet";
  return r.out;
}

/// "1,2,3" of [1, 2, 3].
std::string list(const json& ids) {
  const std::string text = ids.dump();
  return text.substr(1, text.size() - 2);
}

json golden() { return json::parse(read_file(data("storyteller/golden.json"))).at("prompts"); }

TEST(Run, GreedyTextIsTheGoldenText) {
  for (const auto& p : golden()) {
    const std::string prompt = p.at("prompt"), text = p.at("greedy_text");
    EXPECT_EQ(generated({"-p", prompt, "-n", "48"}), prompt + text + "\n");
  }
}

TEST(Run, GreedyIdsAreTheGoldenIds) {
  for (const auto& p : golden()) {
    EXPECT_EQ(generated({"--ids", "-p", list(p.at("input_ids")), "-n", "48"}),
              list(p.at("greedy_ids")) + "\n");
  }
  EXPECT_EQ(generated({"--ids", "-p", " 5, 6 ,7 ", "-n", "4"}),
            generated({"--ids", "-p", "5,6,7", "-n", "4"}));
}

TEST(Run, ABatchIsItsSingleRuns) {
  const std::vector<std::string> prompts = {"Once upon a time", "The",
                                            "It was a dark night, and the old man said to her"};
  std::vector<std::string> batch = {"-n", "40",      "--temperature", "0.8",    "--top-k",
                                    "50", "--top-p", "0.9",           "--seed", "7"};
  std::vector<std::string> all = batch;
  for (const std::string& p : prompts) all.insert(all.end(), {"-p", p});
  const std::string together = generated(all);
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::vector<std::string> one = batch;
    one.back() = std::to_string(7 + i);  // prompt i uses seed + i
    one.insert(one.end(), {"-p", prompts[i]});
    EXPECT_NE(together.find("[" + std::to_string(i) + "] " + generated(one)), std::string::npos)
        << together;
  }
}

TEST(Run, SeedsDecideSamples) {
  const auto sampled = [](const std::string& seed) {
    return generated({"-p", "Once upon a time", "-n", "40", "--temperature", "1", "--seed", seed});
  };
  EXPECT_EQ(sampled("3"), sampled("3"));
  EXPECT_NE(sampled("3"), sampled("4"));
  EXPECT_EQ(generated({"-p", "Once", "-n", "20", "--temperature", "1", "--top-k", "1"}),
            generated({"-p", "Once", "-n", "20"}));
}

/// A copy of storyteller's plan whose end-of-sequence token is `eos`.
std::string plan_with_eos(const TempDir& folder, int64_t eos) {
  std::filesystem::copy(cpu_plan(), folder / "plan", std::filesystem::copy_options::recursive);
  json plan = json::parse(read_file(folder / "plan/plan.json"));
  plan.at("model").at("eos_ids") = {eos};
  write_file(folder / "plan/plan.json", plan.dump());
  return folder / "plan";
}

TEST(Run, StopsAtEndOfSequence) {
  const json p = golden()[0];
  const auto ids = p.at("greedy_ids").get<std::vector<int64_t>>();
  const std::string prompt = list(p.at("input_ids"));
  size_t at = 5;
  while (std::find(ids.begin(), ids.begin() + at, ids[at]) != ids.begin() + at)
    ++at;  // its first appearance
  const TempDir folder;
  const std::string plan = plan_with_eos(folder, ids[at]);
  const Ran stopped = shunt({"run", plan, "--ids", "-p", prompt, "-n", "48"});
  const Ran ignored = shunt({"run", plan, "--ids", "-p", prompt, "-n", "48", "--ignore-eos"});
  EXPECT_EQ(std::count(stopped.out.begin(), stopped.out.end(), ',') + 1,
            static_cast<int64_t>(at) + 1)
      << stopped.out;
  EXPECT_EQ(std::count(ignored.out.begin(), ignored.out.end(), ',') + 1, 48) << ignored.out;
  EXPECT_EQ(ignored.out.find(stopped.out.substr(0, stopped.out.size() - 1)), 0u);
}

TEST(Run, EndsAtTheModelsLength) {
  const TempDir folder;
  const Ran compiled = shunt({"compile", storyteller(), "--target", "cpu", "-o", folder / "plan",
                              "--max-model-len", "32"});
  ASSERT_EQ(compiled.code, 0) << compiled.err;
  const Ran r =
      shunt({"run", folder / "plan", "--ids", "-p", "1,2,3", "-n", "1000000", "--ignore-eos"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(std::count(r.out.begin(), r.out.end(), ',') + 1, 32 - 3) << r.out;
}

TEST(Run, PromptsOfAnyScript) {
  const std::string prompt = "na\u00efve caf\u00e9 \u2014 \u65e5\u672c\u8a9e \U0001f389";
  EXPECT_EQ(generated({"-p", prompt, "-n", "8"}).find(prompt), 0u);
}

TEST(Run, MovedPlansAndModels) {
  const TempDir folder;
  std::filesystem::copy(storyteller(), folder / "model");
  ASSERT_EQ(shunt({"compile", folder / "model", "--target", "cpu", "-o", folder / "plan"}).code, 0);
  std::filesystem::create_directory(folder / "elsewhere");
  std::filesystem::rename(folder / "plan", folder / "elsewhere/plan");
  const std::vector<std::string> args = {
      "run", folder / "elsewhere/plan", "-q", "-p", "Once", "-n", "8", "--sealed"};
  EXPECT_EQ(shunt(args).out, generated({"-p", "Once", "-n", "8"}));
  std::filesystem::rename(folder / "model", folder / "elsewhere/model");
  EXPECT_EQ(shunt(args).code, 2);
  std::vector<std::string> with_model = args;
  with_model.insert(with_model.end(), {"--model-dir", folder / "elsewhere/model"});
  EXPECT_EQ(shunt(with_model).out, generated({"-p", "Once", "-n", "8"}));
}

TEST(Run, Interrupted) {
  const TempDir folder;
  const Ran r =
      shell("$SHUNT run " + cpu_plan().string() + " -p Once -n 2000 --ignore-eos >" +
            (folder / "text") + " & child=$!; n=0; while [ ! -s " + (folder / "text") +
            " ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done; kill -INT $child; wait $child");
  EXPECT_EQ(r.code, 130) << r.err;
  EXPECT_NE(r.err.find("tokens/s"), std::string::npos) << r.err;
  const std::string text = read_file(folder / "text");
  EXPECT_EQ(text.find("Once"), 0u);
  EXPECT_EQ(text.back(), '\n');
}

TEST(Run, AClosedPipeIsNoCrash) {
  const Ran r =
      shell("$SHUNT run " + cpu_plan().string() + " -p Once -n 1000 --ignore-eos | head -c 4");
  EXPECT_EQ(r.code, 0);
  EXPECT_EQ(r.out, "Once");
  EXPECT_EQ(r.err.find("shunt:"), std::string::npos) << r.err;
}

TEST(Help, NamesEveryCommandAndDefault) {
  const Ran top = shunt({"-h"});
  EXPECT_EQ(top.code, 0);
  for (const std::string command : {"compile", "run", "inspect", "verify", "bench"}) {
    EXPECT_NE(top.out.find("  " + command + " "), std::string::npos) << top.out;
    const Ran r = shunt({command, "-h"});
    EXPECT_EQ(r.code, 0);
    EXPECT_EQ(r.err, "");
    EXPECT_NE(r.out.find("--dtype TEXT:{auto,bf16,f16,f32}=auto"), std::string::npos) << r.out;
  }
  EXPECT_NE(shunt({"run", "-h"}).out.find("=128"), std::string::npos) << "the default of -n";
  EXPECT_EQ(shunt({"--version"}).out, SHUNT_VERSION "\n");
}

}  // namespace

}  // namespace shunt::test
