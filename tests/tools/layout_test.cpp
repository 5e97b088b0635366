// The layout chooser, and what `inspect` says of ranks.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "ir/error.h"
#include "tests/tools/program.h"
#include "tools/expert_map_json.h"
#include "tools/layout.h"

namespace shunt::test {

namespace {

CompileOptions qwen_on_gpus() {
  CompileOptions options;
  options.model_dir = storyteller();
  options.target = "sm_90a";
  return options;
}

TEST(LayoutChooser, ListsEveryMeshBestFirst) {
  const auto layouts = compare_layouts(qwen_on_gpus(), 4, {0, 0, 0, 0}, {8, 256});
  ASSERT_EQ(layouts.size(), 9u);  // 3 ways for dp x tp, 3 for ep x etp
  for (size_t i = 0; i < layouts.size(); ++i) {
    EXPECT_EQ(layouts[i].refused, "");
    EXPECT_TRUE(layouts[i].fits);
    EXPECT_GT(layouts[i].rank_bytes, 0);
    if (i > 0) {
      EXPECT_GE(layouts[i].step.seconds(), layouts[i - 1].step.seconds());
    }
  }
  const std::string table = layout_table(layouts, {8, 256});
  EXPECT_NE(table.find(layouts[0].mesh.to_string()), std::string::npos);
}

/// Where there are no experts, spreading them is no choice; a broken model is said once.
TEST(LayoutChooser, DenseAndBrokenModels) {
  CompileOptions options;
  options.model_dir = data("conformance/llama");
  options.target = "sm_90a";
  std::vector<std::string> told;
  const auto layouts = compare_layouts(options, 4, {0, 0, 0, 0}, {8, 256},
                                       [&](const std::string& line) { told.push_back(line); });
  EXPECT_EQ(layouts.size(), 3u);
  EXPECT_EQ(told.size(), 3u);
  EXPECT_EQ(told.back().substr(0, 13), "layout 3 of 3");
  for (const Layout& l : layouts) EXPECT_EQ(l.mesh.tp, l.mesh.etp);
  EXPECT_EQ(compare_layouts(options, 4, {0, 2, 4, 0}, {8, 256})[0].mesh, (Mesh{2, 2, 4, 1}));
  options.model_dir = data("configs");
  EXPECT_THROW(compare_layouts(options, 4, {0, 0, 0, 0}, {8, 256}), UserError);
}

TEST(LayoutChooser, FixedAxesStay) {
  for (const Layout& l : compare_layouts(qwen_on_gpus(), 4, {0, 2, 4, 0}, {8, 256})) {
    EXPECT_EQ(l.mesh, (Mesh{2, 2, 4, 1}));
  }
  EXPECT_THROW(compare_layouts(qwen_on_gpus(), 4, {0, 3, 0, 0}, {8, 256}), UserError);
}

TEST(LayoutChooser, FromTheCommandLine) {
  const Ran r = shunt({"compile", storyteller(), "--target", "sm_90a", "--gpus", "2", "--explain"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("dp 1, tp 2, ep 2, etp 1"), std::string::npos) << r.out;
  EXPECT_NE(r.err.find("layout for 2 GPUs: "), std::string::npos) << r.err;
  const Ran bad = shunt(
      {"run", storyteller(), "--target", "cpu", "-p", "x", "--dp", "2", "--tp", "2", "--ep", "3"});
  EXPECT_EQ(bad.code, 2);
  EXPECT_NE(bad.err.find("dp * tp = 4 ranks, but ep * etp = 3"), std::string::npos) << bad.err;
}

/// The quickest layout is no choice if none fits: nothing is written, and the message has the
/// bytes.
TEST(LayoutChoice, NothingFits) {
  const std::string model = testing::TempDir() + "nothing-fits", plan = model + ".plan";
  std::filesystem::create_directories(model);
  std::filesystem::copy_file(data("configs/mixtral-8x7b.json"), model + "/config.json",
                             std::filesystem::copy_options::overwrite_existing);
  const Ran r =
      shunt({"compile", model, "--dummy-weights", "--target", "sm_80", "--gpus", "1", "-o", plan});
  EXPECT_EQ(r.code, 2) << r.err;
  EXPECT_NE(r.err.find("no layout of 1 GPUs fits: dp 1, tp 1, ep 1, etp 1 needs 8"),
            std::string::npos)
      << r.err;
  EXPECT_FALSE(std::filesystem::exists(plan));
  std::filesystem::remove_all(model);
}

TEST(RankFlags, WhatHasNoEffectIsAnError) {
  const auto error = [](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"inspect", storyteller(), "--target", "sm_90a"});
    const Ran r = shunt(flags);
    EXPECT_EQ(r.code, 2) << r.err;
    return r.err;
  };
  EXPECT_NE(error({"--dp", "16", "--peer-memory", "on"}).find("no group of 2 to 8 ranks"),
            std::string::npos);
  EXPECT_NE(error({"--moe-comm", "alltoall"}).find("--moe-comm alltoall"), std::string::npos);
  const std::string path = testing::TempDir() + "map-of-two.json";
  ExpertMap map;
  map.ranks = 2;
  for (const int layer : {0, 1, 2, 3, 9}) map.layers.push_back(contiguous_experts(layer, 16, 2));
  std::ofstream(path) << expert_map_to_json(map);
  EXPECT_NE(error({"--expert-map", path}).find("give --ep 2"), std::string::npos);
  EXPECT_NE(error({"--ep", "2", "--expert-map", path}).find("layer 9, where the model has no"),
            std::string::npos);
  std::filesystem::remove(path);
  EXPECT_NE(error({"--expert-map", testing::TempDir()}).find("is a folder"), std::string::npos);
}

TEST(KeepWhole, NamesAreOfWhatIsSplit) {
  const auto plans = [](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"compile", storyteller(), "--target", "sm_90a", "--explain"});
    return shunt(flags);
  };
  const Ran some = plans({"--gpus", "2", "--tp", "2", "--keep-whole", " logits, l*.attention"});
  EXPECT_EQ(some.code, 0) << some.err;
  EXPECT_NE(some.out.find("whole: l*.attention, logits"), std::string::npos) << some.out;
  EXPECT_NE(some.err.find("whole: l*.attention, logits"), std::string::npos) << some.err;
  const Ran none = plans({"--gpus", "2", "--tp", "2", "--keep-whole", "none"});
  EXPECT_NE(none.out.find("whole: nothing"), std::string::npos) << none.out;
  // A name that is wrong wherever there is a tp is an error, and no reason to take dp.
  const Ran wrong = plans({"--gpus", "2", "--keep-whole", "zzz"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_NE(wrong.err.find("nothing that tp 2 splits is called 'zzz'"), std::string::npos)
      << wrong.err;
  const Ran empty = plans({"--gpus", "2", "--tp", "2", "--keep-whole", "logits,"});
  EXPECT_EQ(empty.code, 2);
  EXPECT_NE(empty.err.find("empty name"), std::string::npos) << empty.err;
}

TEST(KeepWhole, IsSaidByThePlan) {
  const std::string plan = testing::TempDir() + "keep-whole.plan";
  const Ran r = shunt({"compile", storyteller(), "--target", "cpu", "--tp", "2", "--keep-whole",
                       "logits", "-o", plan});
  ASSERT_EQ(r.code, 0) << r.err;
  const Ran shown = shunt({"inspect", plan, "--show", "placement", "-o", "json"});
  EXPECT_EQ(nlohmann::json::parse(shown.out)["placement"]["kept_whole"],
            nlohmann::json::array({"logits"}));
  for (const auto& [flag, value] :
       {std::pair{"--keep-whole", "none"}, {"--link-us", "9"}, {"--link-gbps", "9"}}) {
    const Ran late = shunt({"inspect", plan, flag, value});
    EXPECT_EQ(late.code, 2) << flag;
    EXPECT_NE(late.err.find(std::string(flag) + " has no effect on a plan"), std::string::npos)
        << late.err;
  }
  std::filesystem::remove_all(plan);
}

/// Slow links keep more whole, and sums are then not taken to go over peer memory.
TEST(Links, AreWhatTheUserSays) {
  const auto table = [](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"compile", storyteller(), "--target", "sm_90a", "--gpus", "2",
                                 "--tp", "2", "--etp", "2", "--explain", "--keep-whole", "none"});
    const Ran r = shunt(flags);
    EXPECT_EQ(r.code, 0) << r.err;
    std::istringstream line(r.out.substr(r.out.find("etp 2") + 5));
    double step = 0;
    line >> step;
    return step;
  };
  const double quick = table({}), slow = table({"--link-us", "500"});
  EXPECT_GT(slow, quick + 0.5 * 2 * 4);  // two sums a layer
  EXPECT_EQ(slow, table({"--link-us", "500", "--peer-memory", "off"}));
  EXPECT_GT(table({"--link-gbps", "0.01"}), table({"--link-gbps", "100"}));
  for (const char* bad : {"nan", "0", "-1", "1e300", "x"}) {
    const Ran r = shunt({"compile", storyteller(), "--target", "sm_90a", "--gpus", "2", "--explain",
                         "--link-us", bad});
    EXPECT_EQ(r.code, 2) << bad;
    EXPECT_NE(r.err.find("is no number from"), std::string::npos) << r.err;
  }
  const Ran many = shunt({"compile", storyteller(), "--target", "sm_90a", "--gpus", "16", "--tp",
                          "4", "--ep", "16", "--explain"});
  EXPECT_NE(many.err.find("16 ranks are on several nodes"), std::string::npos) << many.err;
}

TEST(InspectRanks, PlacementAndCommunication) {
  const Ran r = shunt({"inspect", storyteller(), "--target", "cpu", "--ep", "3", "--show",
                       "placement,comm", "-o", "json", "--keep-whole", "none"});
  ASSERT_EQ(r.code, 0) << r.err;
  const auto json = nlohmann::json::parse(r.out);
  const auto& placement = json["placement"];
  EXPECT_EQ(placement["mesh"], "dp 1, tp 3, ep 3, etp 1");
  ASSERT_EQ(placement["ranks"].size(), 3u);
  ASSERT_EQ(placement["expert_layers"].size(), 4u);
  const auto& experts = placement["expert_layers"][0]["experts"];
  ASSERT_EQ(experts.size(), 16u);
  EXPECT_EQ(experts[0], 0);
  EXPECT_EQ(experts[15], 2);
  // Two reductions a layer, the embedding's (the head is tied to it) and the gather of the logits.
  EXPECT_EQ(json["comm"][0]["collectives"], 2 * 4 + 2);
  EXPECT_EQ(json["comm"][0]["list"][0]["op"], "all_reduce");
}

/// What ranks exchange in each other's memory is no collective step, and listed like one.
TEST(InspectRanks, ExchangesOverPeerMemory) {
  const auto exchanges = [](const char* axis, const char* n) {
    const Ran r = shunt({"inspect", storyteller(), "--target", "sm_90a", axis, n, "--ep", n,
                         "--show", "comm", "-o", "json", "--keep-whole", "none"});
    EXPECT_EQ(r.code, 0) << r.err;
    std::map<std::string, int> count;
    const auto json = nlohmann::json::parse(r.out);
    for (const auto& e : json["comm"][0]["list"]) {
      const bool peer = e["by"] == "peer memory";
      if (!peer) continue;
      ++count[e["op"]];
      EXPECT_GT(e["bytes"], 0);
      EXPECT_EQ(e["ranks"], 2);
      EXPECT_NE(e["loc"], "");
    }
    return count;
  };
  EXPECT_EQ(exchanges("--dp", "2"), (std::map<std::string, int>{{"combine", 4}, {"dispatch", 4}}));
  EXPECT_EQ(exchanges("--tp", "2")["all_reduce"], 2 * 4 + 1);
}

}  // namespace

}  // namespace shunt::test
