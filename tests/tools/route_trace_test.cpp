// From routes to a placement: counters against the reference evaluator on one rank and on meshes,
// and the whole road on the cpu target: run --route-trace, place, compile --expert-map, verify.
#include "tools/route_trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "ir/error.h"
#include "ir/reference/evaluator.h"
#include "passes/place/moe_shapes.h"
#include "runtime/engine/tokenizer.h"
#include "tests/tools/program.h"
#include "tools/expert_map_json.h"
#include "tools/place.h"
#include "tools/verify.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;
using test::shunt;

int64_t total(const std::vector<RouteCounts>& counts) {
  int64_t sum = 0;
  for (const RouteCounts& c : counts)
    sum += std::accumulate(c.routes.begin(), c.routes.end(), int64_t{0});
  return sum;
}

/// Ids of some sequences of unequal lengths.
std::vector<std::vector<int32_t>> sequences(int64_t vocabulary) {
  std::vector<std::vector<int32_t>> out;
  for (const size_t length : {13, 1, 20, 6}) {
    std::vector<int32_t>& ids = out.emplace_back();
    for (size_t t = 0; t < length; ++t)
      ids.push_back(static_cast<int32_t>((7 * t * t + 31 * out.size()) % vocabulary));
  }
  return out;
}

/// What a prefill of all sequences in one step, and then two decode steps, count.
std::vector<RouteCounts> counts_of(StepRunner& runner) {
  const auto ids = sequences(runner.vocab_size());
  SequenceFeeder feeder(runner, static_cast<int64_t>(ids.size()), 32);
  feeder.append_batch({ids.begin(), ids.end()}, false);
  const std::vector<int32_t> next = {3, 1, 4, 1};
  feeder.decode(next);
  feeder.decode(next);
  return runner.route_counts();
}

struct CountCase {
  std::string model;
  Mesh mesh;
  std::string moe_comm = "auto";
};

class CountsOnMesh : public testing::TestWithParam<CountCase> {};

TEST_P(CountsOnMesh, AreThoseOfTheEvaluator) {
  CompileOptions options;
  options.keep_whole = "none";
  options.model_dir = test::data(GetParam().model);
  options.mesh = GetParam().mesh;
  options.moe_comm = GetParam().moe_comm;
  options.gather_logits = options.mesh.dp > 1;
  options.max_model_len = 32;
  options.max_num_seqs = 4;
  options.max_num_batched_tokens = options.max_logit_rows = 64;
  const auto wanted = counts_of(*make_reference_runner(options, true, 8));
  const test::TempDir folder;
  const fs::path plan = folder / "plan";
  write_plan(compile(options), plan);
  EXPECT_EQ(counts_of(*make_plan_runner(plan, 8)), wanted);

  const auto shapes = passes::moe_shapes(*import_module(options, false).module);
  ASSERT_EQ(wanted.size(), shapes.size());
  int64_t routes = 0;
  for (size_t i = 0; i < shapes.size(); ++i) {
    EXPECT_EQ(passes::layer_number(wanted[i].loc), shapes[i].layer);
    EXPECT_EQ(static_cast<int>(wanted[i].routes.size()), shapes[i].experts);
    routes += shapes[i].choices * (13 + 1 + 20 + 6 + 2 * 4);
  }
  if (GetParam().model.starts_with("deepspeed")) {  // whose capacity drops some
    EXPECT_LT(total(wanted), routes);
    EXPECT_GT(total(wanted), routes / 2);
  } else {
    EXPECT_EQ(total(wanted), routes);
  }
}

const CountCase kCountCases[] = {{"conformance/mixtral", {1, 1, 1, 1}},
                                 {"conformance/mixtral", {1, 2, 2, 1}},
                                 {"conformance/mixtral", {2, 1, 2, 1}},
                                 {"conformance/mixtral", {2, 2, 2, 2}},
                                 {"conformance/mixtral", {2, 2, 4, 1}, "allgather"},
                                 {"conformance/mixtral", {2, 2, 4, 1}, "alltoall"},
                                 {"conformance/deepseek_v3", {1, 1, 1, 1}},
                                 {"conformance/deepseek_v3", {2, 2, 4, 1}},
                                 {"deepspeed/top1_standard", {1, 1, 1, 1}},
                                 {"deepspeed/top1_standard", {2, 1, 2, 1}},
                                 {"deepspeed/top2_residual", {2, 1, 1, 2}}};

std::string case_name(const testing::TestParamInfo<CountCase>& info) {
  const std::string& model = info.param.model;
  const Mesh& m = info.param.mesh;
  return fmt::format("{}_dp{}_tp{}_ep{}_etp{}", model.substr(model.find('/') + 1), m.dp, m.tp, m.ep,
                     m.etp) +
         (info.param.moe_comm == "auto" ? "" : "_" + info.param.moe_comm);
}

INSTANTIATE_TEST_SUITE_P(All, CountsOnMesh, testing::ValuesIn(kCountCases), case_name);

TEST(RouteTrace, CutsCountsIntoWindows) {
  const test::TempDir folder;
  const fs::path file = folder / "trace.json";
  std::vector<RouteCounts> counts = {{"model.layers.1.mlp", {10, 20}}};
  int asked = 0;
  RouteTrace trace({file, 100}, [&] { return ++asked, counts; });
  counts[0].routes = {11, 20};
  trace.advance(99);
  EXPECT_EQ(asked, 1);
  counts[0].routes = {13, 25};
  trace.advance(102);
  trace.advance(110);
  counts[0].routes = {13, 29};
  trace.finish();
  EXPECT_EQ(asked, 3);
  const passes::RoutingProfile profile = load_profile(file);
  EXPECT_EQ(profile.layers, std::vector<int>{1});
  ASSERT_EQ(profile.windows.size(), 2u);
  EXPECT_EQ(profile.windows[0].counts, (std::vector<std::vector<double>>{{3, 5}}));
  EXPECT_EQ(profile.windows[1].counts, (std::vector<std::vector<double>>{{0, 4}}));
  EXPECT_NE(test::read_file(file).find("[3,5]"), std::string::npos);  // whole numbers
}

TEST(RouteTrace, AShortRestJoinsTheWindowBefore) {
  const test::TempDir folder;
  std::vector<RouteCounts> counts = {{"model.layers.0.mlp", {0, 0}}};
  RouteTrace trace({folder / "trace.json", 100}, [&] { return counts; });
  counts[0].routes = {60, 40};
  trace.advance(100);
  counts[0].routes = {100, 49};
  trace.finish();
  const passes::RoutingProfile profile = load_profile(folder / "trace.json");
  ASSERT_EQ(profile.windows.size(), 1u);
  EXPECT_EQ(profile.windows[0].counts, (std::vector<std::vector<double>>{{100, 49}}));
}

TEST(RouteTrace, NothingToRecordIsAnError) {
  const auto nothing = [] { return std::vector<RouteCounts>(); };
  EXPECT_THROW(RouteTrace({"trace.json", 0}, nothing), UserError);
  const test::TempDir folder;
  RouteTrace idle({folder / "trace.json", 0}, [] {
    return std::vector<RouteCounts>{{"model.layers.0.mlp", {1}}};
  });
  EXPECT_THROW(idle.finish(), UserError);
  RouteTrace off({}, nothing);  // no file: no trace
  off.advance(1000);
  off.finish();
}

std::vector<std::string> storyteller(const char* command, const std::vector<std::string>& more) {
  std::vector<std::string> args = {command, test::storyteller(), "--target", "cpu"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

TEST(RouteTraceRoad, FromRunToVerifyWithAMap) {
  const test::TempDir folder;
  const std::string trace = folder / "trace.json", map = folder / "map.json",
                    plan = folder / "plan", file = folder / "prompts.txt";
  // A prompt a line.
  test::write_file(file, test::read_file(test::data("storyteller/heldout.txt")).substr(0, 8000));
  test::Ran ran = shunt(storyteller(
      "run", {"-f", file, "-n", "2", "-q", "--route-trace", trace, "--route-window", "1000"}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const passes::RoutingProfile profile = load_profile(trace);
  EXPECT_EQ(profile.layers, (std::vector<int>{0, 1, 2, 3}));
  EXPECT_GT(profile.windows.size(), 1u);
  const auto counts = profile.total();
  const double routes = std::accumulate(counts[0].begin(), counts[0].end(), 0.0);
  EXPECT_GT(routes, 4000);
  for (const auto& layer : counts)
    EXPECT_EQ(std::accumulate(layer.begin(), layer.end(), 0.0), routes);

  ran = shunt({"place", test::storyteller(), "--profile", trace, "--ep", "4", "--redundant-experts",
               "2", "-o", map});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("worst window"), std::string::npos) << ran.out;
  ran = shunt(storyteller("compile", {"--ep", "4", "--expert-map", map, "-o", plan}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  ran = shunt({"inspect", plan, "--show", "placement"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const std::string golden = test::data("storyteller/golden.json");
  ran = shunt(storyteller("verify", {"--ep", "4", "--expert-map", map, "--golden", golden}));
  EXPECT_EQ(ran.code, 0) << ran.out << ran.err;
  // With the map the same routes are taken, but for near-ties that four ranks round otherwise.
  const std::string again = folder / "again.json";
  ran = shunt({"run", plan, "-f", file, "-n", "2", "-q", "--route-trace", again});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto others = load_profile(again).total();
  double differences = 0;
  for (size_t l = 0; l < counts.size(); ++l) {
    for (size_t e = 0; e < counts[l].size(); ++e)
      differences += std::abs(others[l][e] - counts[l][e]);
  }
  EXPECT_LT(differences, 0.002 * routes);
}

TEST(RouteTraceRoad, VerifyCountsWhatTheEvaluatorCounts) {
  const test::TempDir folder;
  const std::string wanted = folder / "wanted.json";
  const auto text_trace = [&](const std::string& trace, std::vector<std::string> more) {
    more.insert(more.end(), {"--text", test::data("storyteller/heldout.txt"), "--tokens", "300",
                             "--window", "100", "--route-trace", trace, "--route-window", "200"});
    const test::Ran ran = shunt(storyteller("verify", more));
    EXPECT_EQ(ran.code, 0) << ran.err;
  };
  text_trace(wanted, {"--reference"});
  const passes::RoutingProfile profile = load_profile(wanted);
  ASSERT_EQ(profile.windows.size(), 2u);
  for (const auto& layer : profile.windows[0].counts)
    EXPECT_EQ(std::accumulate(layer.begin(), layer.end(), 0.0), 2 * 200);
  for (const std::vector<std::string>& mesh : {std::vector<std::string>{},
                                               {"--tp", "2", "--ep", "2"},
                                               {"--dp", "2", "--tp", "2", "--ep", "4"}}) {
    const std::string counted = folder / "counted.json";
    text_trace(counted, mesh);
    EXPECT_EQ(test::read_file(counted), test::read_file(wanted));
  }
}

/// Routes that each rank's experts take, as the devices choose among replicas, by layer.
std::map<int, std::vector<double>> rank_routes(const CompileOptions& options,
                                               const std::vector<int32_t>& tokens) {
  const ModuleForReference in = import_module(options, true);
  const ir::Graph* step = nullptr;
  const auto T = static_cast<int64_t>(tokens.size());
  for (const auto& graph : in.module->graphs) {
    if (graph->name.starts_with("step.prefill") && in.module->dim(*graph, "T").max >= T) {
      step = graph.get();
      break;
    }
  }
  EXPECT_NE(step, nullptr);
  ir::ReferenceOptions reference;
  reference.checkpoint = checkpoint_reader(options.model_dir);
  ir::Evaluator evaluator(*in.module, reference);
  evaluator.load();
  const DimEnv dims = {{"T", T}, {"S", 1}, {"R", 1}};
  std::map<std::string, ir::Tensor> inputs;
  for (const auto& input : step->inputs) {
    Type type = input->type;
    for (Dim& d : type.shape) d = Dim(d.evaluate(dims));
    ir::Tensor& t = inputs[input->name] = ir::Tensor::make(type);
    std::iota(t.i.begin(), t.i.end(), 0);  // positions, pages of the block table, the logit row
    if (input->name == "tokens") t.i.assign(tokens.begin(), tokens.end());
    if (input->name == "kv_lens" || input->name == "seq_starts") t.i.back() = static_cast<int>(T);
  }
  std::map<int, std::vector<double>> routes;
  evaluator.run_ranks(step->name, dims,
                      std::vector(static_cast<size_t>(in.module->mesh.size()), inputs),
                      [&](int rank, const ir::Value& v, const ir::Tensor& ids) {
                        if (v.def == nullptr || v.def->kind != ir::OpKind::local_routes) return;
                        std::vector<double>& layer = routes[passes::layer_number(v.def->loc)];
                        layer.resize(static_cast<size_t>(in.module->mesh.size()));
                        layer[static_cast<size_t>(rank)] += static_cast<double>(std::count_if(
                            ids.i.begin(), ids.i.end(), [](auto id) { return id >= 0; }));
                      });
  return routes;
}

/// What ranks really compute on a text is what the map's shares say of the routes counted on it.
TEST(RouteTraceRoad, RanksGetTheRoutesThatTheMapPromises) {
  const test::TempDir folder;
  const std::vector<int32_t> tokens = [] {
    const std::string text = test::read_file(test::data("storyteller/heldout.txt"));
    std::vector<int32_t> ids =
        Tokenizer::from_file(fs::path(test::storyteller()) / "tokenizer.json").encode(text);
    ids.resize(512);
    return ids;
  }();
  PlaceOptions place;
  place.input = test::storyteller();
  place.profile = test::data("storyteller/golden.json");
  place.ranks = 4;
  place.redundant = 4;
  const ExpertMap map = study_placement(place).planned;
  CompileOptions options;
  options.keep_whole = "none";
  options.model_dir = test::storyteller();
  options.max_model_len = options.max_num_batched_tokens = 512;
  options.max_logit_rows = 512;
  std::vector<RouteCounts> counts;
  {
    auto runner = make_reference_runner(options, true, 8);
    SequenceFeeder(*runner, 1, 512).append(0, tokens, false);
    counts = runner->route_counts();
  }
  options.mesh = {1, 4, 4, 1};
  options.expert_map = folder / "map.json";
  test::write_file(options.expert_map, expert_map_to_json(map));
  const auto routes = rank_routes(options, tokens);
  ASSERT_EQ(routes.size(), counts.size());
  int replicas = 0;
  for (size_t l = 0; l < counts.size(); ++l) {
    const std::vector<double> load(counts[l].routes.begin(), counts[l].routes.end());
    const std::vector<double> promised = rank_loads(map.layers[l], load, 4);
    const std::vector<double>& got = routes.at(map.layers[l].layer);
    for (size_t r = 0; r < 4; ++r) EXPECT_NEAR(got[r], promised[r], 0.03 * 1024) << l << " " << r;
    EXPECT_EQ(std::accumulate(got.begin(), got.end(), 0.0), 2 * 512);
    replicas += map.layers[l].redundant();
  }
  EXPECT_GT(replicas, 4);
}

TEST(RouteTraceRoad, ErrorsComeBeforeTheWork) {
  const test::TempDir folder;
  const auto refused = [&](const std::vector<std::string>& args, const std::string& part) {
    const test::Ran ran = shunt(args);
    EXPECT_EQ(ran.code, 2) << ran.err;
    EXPECT_NE(ran.err.find(part), std::string::npos) << ran.err;
  };
  const std::string trace = folder / "trace.json", dense = test::data("conformance/llama");
  refused({"run", dense, "--target", "cpu", "-p", "1", "--ids", "--route-trace", trace}, "dense");
  refused(storyteller("run", {"-p", "a", "--route-trace", folder / "no/such.json"}), "no folder");
  refused(storyteller("run", {"-p", "a", "--route-trace", folder.path().string()}), "is a folder");
  refused(storyteller("run", {"-p", "a", "--route-window", "10"}), "--route-trace");
  refused(storyteller("verify", {"--route-trace", trace}), "--text");
  refused(storyteller("run", {"-f", folder / "none.txt"}), "cannot be opened");
  test::write_file(folder / "empty.txt", "\n\n");
  refused(storyteller("run", {"-f", folder / "empty.txt"}), "no prompts");
  EXPECT_FALSE(fs::exists(trace));
}

}  // namespace
}  // namespace shunt
