// `shunt place`: the two file formats, the study behind the command, and the command itself.
#include "tools/place.h"

#include <gtest/gtest.h>

#include <functional>

#include "ir/error.h"
#include "tests/tools/program.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = test::data("storyteller/golden.json");

PlaceOptions storyteller(int ranks, int redundant = 0) {
  PlaceOptions o;
  o.input = test::storyteller();
  o.profile = kGolden;
  o.ranks = ranks;
  o.redundant = redundant;
  return o;
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

double worst_layer(const PlaceStudy& s, const ExpertMap& map) {
  double worst = 0;
  for (size_t i = 0; i < s.counts.size(); ++i) {
    worst = std::max(worst, max_over_mean(rank_loads(map.layers[i], s.counts[i], map.ranks)));
  }
  return worst;
}

TEST(Place, StorytellerIsBalancedOnFourRanks) {
  const PlaceStudy s = study_placement(storyteller(4));
  ASSERT_EQ(s.shapes.size(), 4u);
  EXPECT_GT(worst_layer(s, s.contiguous), 1.9);
  EXPECT_LE(worst_layer(s, s.planned), 1.15);
  EXPECT_EQ(s.planned.layers[0].redundant(), 0);
  EXPECT_LT(s.estimate(s.planned, 4096).seconds(), s.estimate(s.contiguous, 4096).seconds());
}

TEST(Place, StorytellerWithFourRedundantExperts) {
  const PlaceStudy s = study_placement(storyteller(4, 4));
  EXPECT_LE(worst_layer(s, s.planned), 1.01);
  for (const ExpertMapLayer& layer : s.planned.layers) EXPECT_LE(layer.redundant(), 4);
}

TEST(Place, UnevenRanks) {
  const PlaceStudy s = study_placement(storyteller(3));
  for (const ExpertMapLayer& layer : s.planned.layers) {
    for (int r = 0; r < 3; ++r) EXPECT_LE(layer.experts_on(r).size(), 6u);
  }
  EXPECT_LT(worst_layer(s, s.planned), 1.05);
}

TEST(Place, MapAndProfileSurviveTheirFiles) {
  const PlaceStudy s = study_placement(storyteller(4, 4));
  EXPECT_EQ(expert_map_from_json(expert_map_to_json(s.planned)), s.planned);
  passes::RoutingProfile profile = s.profile;
  profile.layers = {0, 1, 2, 3};
  profile.windows.push_back(profile.windows[0]);
  const passes::RoutingProfile back = profile_from_json(profile_to_json(profile));
  EXPECT_EQ(back.layers, profile.layers);
  ASSERT_EQ(back.windows.size(), 2u);
  EXPECT_EQ(back.windows[1].counts, profile.windows[1].counts);
  EXPECT_EQ(back.total()[2][3], 2 * profile.windows[0].counts[2][3]);
}

TEST(Place, MapsByHandMayBeShort) {
  const ExpertMap map = expert_map_from_json(
      R"({"schema": 1, "kind": "expert_map", "ranks": 2, "layers": [
          {"layer": 3, "experts": [1, [1, 0], [{"rank": 0, "share": 0.25}, {"rank": 1, "share": 0.75}]]}]})");
  EXPECT_EQ(map.nodes, 1);
  EXPECT_EQ(map.layers[0].experts[0], (std::vector<ExpertReplica>{{1, 1}}));
  EXPECT_EQ(map.layers[0].experts[1], (std::vector<ExpertReplica>{{0, 0.5}, {1, 0.5}}));
  EXPECT_EQ(map.layers[0].experts[2], (std::vector<ExpertReplica>{{0, 0.25}, {1, 0.75}}));
}

TEST(Place, BadMapsAreRefused) {
  const auto map_error = [](const std::string& fields) {
    return error_of(
        [&] { expert_map_from_json("{\"schema\": 1, \"kind\": \"expert_map\"" + fields + "}"); });
  };
  EXPECT_NE(error_of([] { expert_map_from_json("{"); }).find("not valid JSON"), std::string::npos);
  EXPECT_EQ(error_of([] { expert_map_from_json("[1]"); }),
            "not a file of this sort: \"kind\" must be \"expert_map\"");
  EXPECT_EQ(error_of([] { expert_map_from_json(R"({"kind": "expert_map", "schema": 2})"); }),
            "\"schema\" must be 1, the one this program reads");
  EXPECT_EQ(map_error(""), "key 'ranks' is missing");
  EXPECT_EQ(map_error(R"(, "ranks": 1e30, "layers": [])"),
            "ranks must be an integer from 0 to 4096");
  EXPECT_EQ(map_error(R"(, "ranks": 2, "layers": {})"), "key 'layers' must be a list");
  EXPECT_EQ(map_error(R"(, "ranks": 2, "layers": [], "extra": 0)"), "the map: unknown key 'extra'");
  EXPECT_EQ(map_error(R"(, "ranks": 2, "layers": [{"layer": 0, "experts": [0, -1]}])"),
            "layer 0, expert 1 must be an integer from 0 to 4096");
  EXPECT_EQ(map_error(R"(, "ranks": 2, "layers": [{"layer": 0, "experts": [[]]}])"),
            "layer 0, expert 0: is on no rank");
  EXPECT_EQ(map_error(R"(, "ranks": 2, "layers": [{"layer": 0, "experts": [[0, 0]]}])"),
            "layer 0, expert 0: is twice on rank 0");
}

TEST(Place, BadProfilesAreRefused) {
  const auto profile_error = [](const std::string& fields) {
    return error_of([&] {
      profile_from_json("{\"schema\": 1, \"kind\": \"routing_profile\", " + fields + "}");
    });
  };
  EXPECT_EQ(profile_error("\"windows\": []"), "the profile has no windows");
  EXPECT_EQ(profile_error("\"windows\": [{\"counts\": []}]"), "the profile has no layers");
  EXPECT_EQ(profile_error("\"windows\": [{\"counts\": [[1, -1]]}]"),
            "window 0, layer entry 0: counts must be finite and not negative");
  EXPECT_EQ(profile_error("\"windows\": [{\"counts\": [[1, null]]}]"),
            "window 0, layer entry 0: counts must be numbers");
  EXPECT_EQ(profile_error("\"windows\": [{\"counts\": [[1]]}, {\"counts\": [[1], [2]]}]"),
            "window 1 has 2 layers, window 0 has 1");
  EXPECT_EQ(profile_error("\"layers\": [1, 1], \"windows\": [{\"counts\": [[1], [2]]}]"),
            "the profile's layer numbers must ascend from 0");
}

TEST(Place, FilesThatDoNotFitTheModelAreNamed) {
  PlaceOptions o = storyteller(4);
  const test::TempDir folder;
  o.profile = folder / "p.json";
  test::write_file(
      o.profile, R"({"schema": 1, "kind": "routing_profile", "windows": [{"counts": [[1, 2]]}]})");
  EXPECT_EQ(error_of([&] { study_placement(o); }),
            o.profile.string() + ": counts 1 layers, the model has 4 MoE layers");
  o = storyteller(3);
  o.current = folder / "m.json";
  test::write_file(o.current, expert_map_to_json(study_placement(storyteller(4)).planned));
  EXPECT_EQ(error_of([&] { study_placement(o); }),
            o.current.string() + ": is for 4 ranks, --ep is 3");
  o = storyteller(4);
  o.nodes = 3;
  EXPECT_NE(error_of([&] { study_placement(o); }).find("3 nodes do not divide 4 ranks"),
            std::string::npos);
}

TEST(Place, MovesMustPayBack) {
  const test::TempDir folder;
  PlaceOptions o = storyteller(4);
  const std::string now = folder / "now.json";
  test::write_file(now, expert_map_to_json(study_placement(o).contiguous));
  o.current = now;
  o.payback_steps = 1e-3;
  EXPECT_EQ(study_placement(o).planned, study_placement(o).contiguous);
  o.payback_steps = 1e6;
  EXPECT_LE(worst_layer(study_placement(o), study_placement(o).planned), 1.15);
}

TEST(Place, AsManyReplicasAsTheCurrentMapHasUnlessSaid) {
  const test::TempDir folder;
  const std::string now = folder / "now.json";
  const ExpertMap with_four = study_placement(storyteller(4, 4)).planned;
  test::write_file(now, expert_map_to_json(with_four));
  PlaceOptions o = storyteller(4, -1);
  EXPECT_EQ(study_placement(o).planned, study_placement(storyteller(4, 0)).planned);
  o.current = now;
  EXPECT_EQ(study_placement(o).planned, with_four);
  o.redundant = 0;
  EXPECT_EQ(study_placement(o).planned.layers[0].redundant(), 0);
}

TEST(Place, CommandWritesTheMapAndSaysWhetherItPays) {
  const test::TempDir folder;
  const std::string map = folder / "map.json", again = folder / "again.json";
  const auto place = [](const std::vector<std::string>& more) {
    std::vector<std::string> args = {
        "place", test::storyteller(), "--profile", kGolden.string(), "--ep", "4"};
    args.insert(args.end(), more.begin(), more.end());
    return test::shunt(args);
  };
  test::Ran ran = place({"-o", map});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_GT(
      test::number_after(ran.out, "predicted gain of the MoE layers over the contiguous map:"),
      1.01);
  EXPECT_EQ(load_expert_map(map), study_placement(storyteller(4)).planned);

  ran = place({"--current", map, "-o", again});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("no gain"), std::string::npos) << ran.out;
  EXPECT_EQ(load_expert_map(again), load_expert_map(map));

  ran = place({"-o", folder / "no/such/folder.json"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_NE(ran.err.find("cannot be written"), std::string::npos) << ran.err;
  EXPECT_EQ(ran.out, "");  // no report in front of an error
  ran = place({"--measure", folder / "none.json"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(ran.out, "");
}

}  // namespace
}  // namespace shunt
