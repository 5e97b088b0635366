// `inspect`: identical layers once, JSON that parses, DOT that is well formed, .mir files and
// folders without weights.
#include "tools/inspect.h"

#include <gtest/gtest.h>

#include <regex>

#include "tests/tools/program.h"

namespace shunt::test {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size()))
    ++n;
  return n;
}

/// Every node that an edge names is declared, and quotes are closed.
void expect_dot(const std::string& dot) {
  EXPECT_EQ(dot.find("digraph "), 0u);
  EXPECT_EQ(dot.substr(dot.size() - 2), "}\n");
  EXPECT_GT(count(dot, " -> "), 10);
  EXPECT_EQ(dot.find("\\\\n"), std::string::npos) << "an escaped backslash before n prints as \\n";
  static const std::regex edge("  (\\w+) -> (\\w+) \\[label=\"[^\"\n]*\"\\];");
  for (std::sregex_iterator it(dot.begin(), dot.end(), edge), end; it != end; ++it) {
    for (int i : {1, 2})
      EXPECT_NE(dot.find("  " + (*it)[i].str() + " [label="), std::string::npos) << it->str();
  }
  EXPECT_EQ(std::distance(std::sregex_iterator(dot.begin(), dot.end(), edge), {}),
            count(dot, " -> "));
}

/// A folder with nothing but the config of a large model.
struct OnlyConfig {
  explicit OnlyConfig(const std::string& name) {
    fs::copy_file(data("configs/" + name + ".json"), folder / "config.json");
  }
  TempDir folder;
};

TEST(Inspect, IdenticalLayersArePrintedOnce) {
  const OnlyConfig model("qwen3-30b-a3b");
  const Ran r = shunt({"inspect", model.folder.path(), "--target", "cpu"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(count(r.out, "layers 0..47 (48 identical)"), 2) << r.out;  // decode and prefill
  EXPECT_EQ(r.out.find("model.layers.1."), std::string::npos) << r.out;
  EXPECT_EQ(count(r.out, "step  "), 2) << "a line of column names each";
  EXPECT_NE(r.out.find("experts_per_token         8"), std::string::npos) << r.out;
}

TEST(Inspect, LayersThatDifferAreNotFolded) {
  Plan plan = load_plan(cpu_plan());
  Program* decode = nullptr;
  for (Program& p : plan.programs) decode = decode == nullptr && p.graph == "step" ? &p : decode;
  ASSERT_NE(decode, nullptr);
  const auto moe_layers = [&] {
    std::vector<std::pair<std::string, int64_t>> out;
    for (const LayerFold& f : fold_layers(plan, *decode)) out.emplace_back(f.title, f.count);
    return out;
  };
  using Folds = std::vector<std::pair<std::string, int64_t>>;
  EXPECT_EQ(moe_layers(),
            (Folds{{"outside layers", 1}, {"layers 0..3", 4}, {"outside layers", 1}}));
  for (Step& s : decode->steps) {
    if (s.loc == "model.layers.2.mlp") s.flops = s.flops + DimExpr(1);
  }
  EXPECT_EQ(moe_layers(), (Folds{{"outside layers", 1},
                                 {"layers 0..1", 2},
                                 {"layer 2", 1},
                                 {"layer 3", 1},
                                 {"outside layers", 1}}));
}

TEST(Inspect, JsonParsesAndSumsUp) {
  const Ran r =
      shunt({"inspect", cpu_plan(), "--show", "summary,layers,kernels,memory", "-o", "json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const json out = json::parse(r.out);
  EXPECT_EQ(out.at("schema"), 1);
  EXPECT_EQ(out.at("summary").at("target"), "cpu");
  EXPECT_EQ(out.at("summary").at("layers"), 4);
  EXPECT_EQ(out.at("summary").at("parameters"), 8145696);
  int64_t files = 0;
  for (const auto& f : out.at("summary").at("files")) files += f.at("bytes").get<int64_t>();
  EXPECT_GT(files, out.at("summary").at("weights_bytes").get<int64_t>());
  EXPECT_EQ(out.at("layers").size(), 2u);
  for (const auto& [program, folds] : out.at("layers").items()) {
    int64_t layers = 0;
    for (const auto& f : folds) {
      EXPECT_FALSE(f.at("steps").empty()) << program;
      if (f.at("title") != "outside layers") layers += f.at("count").get<int64_t>();
    }
    EXPECT_EQ(layers, 4) << program;
  }
  EXPECT_EQ(out.at("kernels").size(), load_plan(cpu_plan()).kernels.size());
  EXPECT_EQ(out.at("memory").at("weights_bytes"), out.at("summary").at("weights_bytes"));
}

TEST(Inspect, SectionsAndPrograms) {
  const Ran memory = shunt({"inspect", cpu_plan(), "--show", "memory"});
  EXPECT_EQ(memory.out.find("memory\n"), 0u) << memory.out;
  EXPECT_EQ(memory.out.find("summary"), std::string::npos);
  const Ran sample = shunt({"inspect", cpu_plan(), "--show", "layers", "--program", "sample"});
  EXPECT_EQ(sample.out.find("layers of sample"), 0u) << sample.out;
  for (const std::string& line : {memory.out, sample.out})
    EXPECT_EQ(line.find(" \n"), std::string::npos) << line;
}

TEST(Inspect, GpuPlansNeedNoGpu) {
  const Ran r = shunt({"inspect", gpu_plan(), "--show", "summary,layers,kernels,memory"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("sm_90a"), std::string::npos);
  EXPECT_NE(r.out.find("grid "), std::string::npos);
}

TEST(Inspect, Dot) {
  const Ran plan = shunt({"inspect", cpu_plan(), "-o", "dot"});
  ASSERT_EQ(plan.code, 0) << plan.err;
  expect_dot(plan.out);
  const Ran gpu = shunt({"inspect", gpu_plan(), "-o", "dot", "--program", "step.decode.1"});
  ASSERT_EQ(gpu.code, 0) << gpu.err;
  expect_dot(gpu.out);
}

TEST(Inspect, MirFiles) {
  const TempDir folder;
  ASSERT_EQ(shunt({"compile", storyteller(), "--target", "cpu", "--dry-run", "--dump-phases-to",
                   folder.path()})
                .code,
            0);
  const std::string file = folder / "00-input.mir";
  const Ran text = shunt({"inspect", file});
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_EQ(count(text.out, "layers 0..3 (4 identical)"), 1) << text.out;
  EXPECT_NE(text.out.find("topk_gate"), std::string::npos);
  const Ran as_json = shunt({"inspect", file, "-o", "json"});
  EXPECT_EQ(json::parse(as_json.out).at("summary").at("states"), 8);
  expect_dot(shunt({"inspect", file, "-o", "dot"}).out);
  write_file(folder / "bad.mir", read_file(file).substr(0, 4000));
  const Ran bad = shunt({"inspect", folder / "bad.mir"});
  EXPECT_EQ(bad.code, 2);
  EXPECT_NE(bad.err.find("bad.mir: line "), std::string::npos) << bad.err;
}

}  // namespace

}  // namespace shunt::test
