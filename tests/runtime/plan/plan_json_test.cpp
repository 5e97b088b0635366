// plan.json: what is written reads back equal, and everything else is refused with its place.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "ir/error.h"
#include "runtime/plan/plan.h"
#include "tests/runtime/plan/tiny_plan.h"

namespace shunt {
namespace {

using test::tiny_plan;

std::string read_error(const std::string& json) {
  try {
    plan_from_json(json);
  } catch (const UserError& e) {
    EXPECT_EQ(e.kind(), UserError::Kind::incompatible_plan);
    return e.what();
  }
  return "(no error)";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// One of every step and argument kind, with numbers and texts that are easy to lose.
Plan every_kind() {
  Plan plan = tiny_plan();
  plan.model_directory = "/tmp/a \"quoted\" \\ path\n\x01";
  plan.files = {{"model.safetensors", 1 << 20, "0123abcd"}};
  plan.states.push_back({"l0.conv", {DType::bf16, {Dim(3), Dim(8)}}, StateKind::slot});
  Program& load = plan.programs[0];
  Step s;
  s.name = "read";
  s.bytes = DimExpr::parse("ceildiv(8*T,128)*4");
  s.what = Read{0, "a.weight", 100, 8, 4, test::TinyPlan::buffer(0), 8, 3, 8, 0, 4};
  load.steps.push_back(s);
  std::get<Read>(s.what).dequantize =
      Dequantize{DType::u8, DType::u8, DType::bf16, 0, "a.scales", 7, 9, 1, 32, 5, 2, 64, 3};
  load.steps.push_back(s);
  Launch l;
  l.kernel = 0;
  l.grid = {DimExpr(Dim::symbol("T")), DimExpr(2), DimExpr::min(Dim::symbol("T"), DimExpr(7))};
  l.threads = 128;
  l.smem = 1024;
  l.cluster = 2;
  l.dependent = true;
  Arg arg;
  arg.kind = Arg::Kind::expr;
  arg.text = "silu(gate) * up";
  l.args.push_back(arg);
  arg = {.kind = Arg::Kind::dim_ptr, .index = 2, .dim = {}, .text = {}};
  l.args.push_back(arg);
  l.args.push_back({.kind = Arg::Kind::i32, .dim = DimExpr(-5), .text = {}});
  for (const double v : {0.0, -0.0, 1e-6, 0.1, 1.0 / 3, 3e38, 12345678901234.0}) {
    l.args.push_back(test::TinyPlan::real(v));
  }
  l.args.push_back(test::TinyPlan::state(1));
  l.args.push_back(
      {.kind = Arg::Kind::peers, .index = 3, .dim = {}, .text = {}, .over = MeshAxis::etp});
  plan.peer_bytes = 512;
  plan.buffers.push_back({"landing", Arena::peer, 0, 512, {DType::u8, {Dim(512)}}});
  l.args.push_back({});
  s.what = l;
  load.steps.push_back(s);
  s.what = Matmul{.x = arg,
                  .w = arg,
                  .c = {},
                  .bias = {},
                  .d = arg,
                  .m = DimExpr(Dim::symbol("T")),
                  .n = 3,
                  .k = 4,
                  .workspace = arg};
  load.steps.push_back(s);
  s.what = Copy{arg, arg, DimExpr(Dim::symbol("T"))};
  load.steps.push_back(s);
  s.what = Fill{arg, DimExpr(16), 255};
  load.steps.push_back(s);
  s.what = Constant{arg, {0.1f, -0.0f, 1.17549435e-38f, 3.4028235e38f, 1.0f, 0.33333334f}};
  load.steps.push_back(s);
  return plan;
}

TEST(PlanJson, RoundTrip) {
  for (const Plan& plan : {tiny_plan(), every_kind(), Plan{}}) {
    const std::string json = to_json(plan);
    const Plan back = plan_from_json(json);
    EXPECT_EQ(to_json(back), json);
    EXPECT_TRUE(back == plan);
  }
}

TEST(PlanJson, SignOfZeroSurvives) {
  const Plan back = plan_from_json(to_json(every_kind()));
  const auto& launch = std::get<Launch>(back.programs[0].steps[4].what);
  EXPECT_FALSE(std::signbit(launch.args[3].number));
  EXPECT_TRUE(std::signbit(launch.args[4].number));
}

TEST(PlanJson, OneStepALine) {
  const Plan plan = tiny_plan();
  std::istringstream lines(to_json(plan));
  size_t buffers = 0, steps = 0;
  for (std::string line; std::getline(lines, line);) {
    buffers += line.find("\"arena\":") != std::string::npos;
    if (line.find("\"loc\":") == std::string::npos) continue;
    steps += line.find("\"kind\":") != std::string::npos;
    EXPECT_EQ(line.find("\"kind\":"), line.rfind("\"kind\":"));
  }
  size_t expected = 0;
  for (const Program& p : plan.programs) expected += p.steps.size();
  EXPECT_EQ(buffers, plan.buffers.size());
  EXPECT_EQ(steps, expected);
}

TEST(PlanJson, UnknownKey) {
  const std::string json = to_json(tiny_plan());
  EXPECT_EQ(
      read_error(replaced(json, "\"compiler\": \"test\"", "\"compiler\": \"test\", \"extra\": 1")),
      "plan.json: has an unknown key \"extra\"");
  EXPECT_EQ(
      read_error(replaced(json, "\"role\": \"positions\"", "\"role\": \"positions\", \"rol\": 1")),
      "plan.json: ports[1] has an unknown key \"rol\"");
  EXPECT_EQ(read_error(replaced(json, "{\"buffer\": 2, \"offset\": 0}",
                                "{\"buffer\": 2, \"offset\": 0, \"i32\": 1}")),
            "plan.json: programs[1].steps[0].args[0] has an unknown key \"i32\"");
}

TEST(PlanJson, MissingKey) {
  const std::string json = to_json(tiny_plan());
  EXPECT_EQ(read_error(replaced(json, "\"compiler\": \"test\",\n", "")),
            "plan.json: has no key \"compiler\"");
  EXPECT_EQ(read_error(replaced(json, "\"role\": \"positions\", ", "")),
            "plan.json: ports[1] has no key \"role\"");
  EXPECT_EQ(read_error(replaced(json, "{\"buffer\": 2, \"offset\": 0}", "{\"buffer\": 2}")),
            "plan.json: programs[1].steps[0].args[0] has no key \"offset\"");
}

TEST(PlanJson, WrongType) {
  const std::string json = to_json(tiny_plan());
  EXPECT_EQ(read_error(replaced(json, "\"compiler\": \"test\"", "\"compiler\": 7")),
            "plan.json: compiler is 7, expected text");
  EXPECT_EQ(read_error(replaced(json, "\"offset\": 512", "\"offset\": 1.5")),
            "plan.json: buffers[1].offset is 1.5, expected a whole number");
  EXPECT_EQ(read_error(replaced(json, "\"offset\": 512", "\"offset\": 18446744073709551615")),
            "plan.json: buffers[1].offset is 18446744073709551615, expected a number below 2^63");
  EXPECT_EQ(read_error(replaced(json, "\"arena\": \"io\"", "\"arena\": \"disk\"")),
            "plan.json: buffers[2].arena is \"disk\", expected weights, workspace, io, counters or peer");
  EXPECT_EQ(read_error(replaced(json, "\"decode\": false", "\"decode\": []")),
            "plan.json: programs[0].decode is array, expected true or false");
  EXPECT_EQ(read_error(replaced(json, "\"kind\": \"constant\"", "\"kind\": \"teleport\"")),
            "plan.json: programs[0].steps[0] has the unknown kind \"teleport\"");
  EXPECT_EQ(read_error(replaced(json, "\"grid\": [1, 1, 1]", "\"grid\": [1, 1]")),
            "plan.json: programs[1].steps[0].grid has 2 entries, expected 3");
}

TEST(PlanJson, WrongSizes) {
  const std::string json = to_json(tiny_plan());
  const std::string type = "\"type\": \"f32[16, 8]\"";
  EXPECT_NE(
      read_error(replaced(json, type, "\"type\": \"f32\"")).find("buffers[0].type is not a type"),
      std::string::npos);
  EXPECT_NE(read_error(replaced(json, type, "\"type\": \"q3[1]\"")).find("names no element type"),
            std::string::npos);
  EXPECT_NE(read_error(replaced(json, type, "\"type\": \"f32[1, ]\"")).find("buffers[0].type"),
            std::string::npos);
  EXPECT_NE(
      read_error(replaced(json, type, "\"type\": \"f32[T*T]\"")).find("buffers[0].type is wrong"),
      std::string::npos);
  // Overflow is the plan's mistake here, not Shunt's.
  const std::string big = "999999999999999999*T";
  std::string sum = big;
  for (int i = 0; i < 20; ++i) sum += "+" + big;
  EXPECT_NE(read_error(replaced(json, type, "\"type\": \"f32[" + sum + "]\"")).find("overflow"),
            std::string::npos);
  const std::string deep = std::string(500, '(') + "T" + std::string(500, ')');
  EXPECT_NE(read_error(replaced(json, "{\"i64\": \"T\"}", "{\"i64\": \"" + deep + "\"}"))
                .find("args[3].i64"),
            std::string::npos);
}

TEST(PlanJson, OtherFormat) {
  std::string json = to_json(tiny_plan());
  const std::string own = std::to_string(kPlanFormat);
  EXPECT_EQ(
      read_error(replaced(json, "\"format\": " + own, "\"format\": 99, \"new\": 1")),
      "plan.json: format is 99, this program reads format " + own + ": compile the model again");
  EXPECT_EQ(read_error("{}"), "plan.json: has no key \"format\": this is not a plan");
  EXPECT_EQ(read_error("[1]"), "plan.json: is array, expected an object");
}

TEST(PlanJson, NotJson) {
  EXPECT_NE(read_error("").find("not valid JSON"), std::string::npos);
  EXPECT_NE(read_error("{\"format\": 1").find("not valid JSON"), std::string::npos);
  EXPECT_NE(read_error(std::string(100000, '[')).find("nested deeper"), std::string::npos);
  EXPECT_NE(read_error("\"" + std::string(1000, '[') + "\"").find("expected an object"),
            std::string::npos);
  std::string cut = to_json(tiny_plan());
  cut.resize(cut.size() / 2);
  EXPECT_NE(read_error(cut).find("not valid JSON"), std::string::npos);
}

TEST(LoadPlan, NamesTheFile) {
  const auto directory = std::filesystem::temp_directory_path() / "shunt_load_plan_test";
  std::filesystem::remove_all(directory);
  const auto error = [&] {
    try {
      load_plan(directory);
    } catch (const UserError& e) {
      return std::string(e.what());
    }
    return std::string("(no error)");
  };
  EXPECT_NE(error().find("shunt_load_plan_test is not a plan"), std::string::npos);
  std::filesystem::create_directory(directory);
  Plan plan = tiny_plan();
  std::ofstream(directory / "plan.json") << to_json(plan);
  EXPECT_TRUE(load_plan(directory) == plan);
  plan.buffers[0].offset += 1;
  std::ofstream(directory / "plan.json") << to_json(plan);
  EXPECT_NE(error().find("shunt_load_plan_test/plan.json: buffers[0].offset"), std::string::npos)
      << error();
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace shunt
