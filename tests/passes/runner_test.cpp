// The pass runner: order, skip, stop-after, dumps, sweep, errors that name the pass; and the
// options of regimes.
#include "passes/runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "ir/error.h"

namespace shunt::passes {
namespace {

constexpr const char* kModel = R"mir(module @m stage(logical)
page_size 4
dim T in [1, 8]
graph @step(%x : f32[T, 4]) {
    %a = pointwise %x {expr = "relu(x0)", out = f32} : f32[T, 4]
    %b = pointwise %a {expr = "exp(x0)", out = f32} : f32[T, 4]
  return %b
}
)mir";

/// Renames the module, so that the order of passes can be read from its name.
bool add_letter(ir::Module& module, char letter) {
  module.name += letter;
  return true;
}
bool add_a(ir::Module& module, const PassContext&) { return add_letter(module, 'a'); }
bool add_b(ir::Module& module, const PassContext&) { return add_letter(module, 'b'); }
bool nothing(ir::Module&, const PassContext&) { return false; }
bool lies_no(ir::Module& module, const PassContext&) { return !add_letter(module, 'x'); }
bool lies_yes(ir::Module&, const PassContext&) { return true; }
bool throws_user(ir::Module&, const PassContext&) { user_error("the model is odd"); }
bool breaks_types(ir::Module& module, const PassContext&) {
  module.find_graph("step")->ops.front()->result()->type.dtype = DType::bf16;
  return true;
}
bool makes_dead_op(ir::Module& module, const PassContext&) {
  ir::Graph& step = *module.find_graph("step");
  ir::GraphBuilder builder(step);
  builder.value(ir::OpKind::pointwise, {step.find_input("x")},
                ir::PointwiseAttrs{"x0 + 1", DType::f32}, "dead");
  return true;
}
bool places(ir::Module& module, const PassContext&) {
  module.stage = ir::Stage::placed;
  return true;
}

Pass pass(std::string_view name, PassFn run) {
  return {name, "", ir::Stage::logical, run};
}

class RunnerTest : public testing::Test {
 protected:
  std::vector<PassRecord> run(const std::vector<Pass>& passes) {
    return run_passes(*module_, passes, {find_target("cpu"), options_, cost_});
  }
  /// The text of the error of this kind that `passes` end in; empty if there is none.
  template <class Kind>
  std::string error_of(const std::vector<Pass>& passes) {
    try {
      run(passes);
    } catch (const Kind& e) {
      return e.what();
    }
    return "";
  }

  std::unique_ptr<ir::Module> module_ = ir::parse(kModel);
  PassOptions options_{.check_changed = true};
  RooflineCostModel cost_{find_target("cpu")};
};

TEST_F(RunnerTest, RunsInOrderAndRecords) {
  const auto records = run({pass("first", add_a), pass("second", nothing), pass("third", add_b)});
  EXPECT_EQ(module_->name, "mab");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[1].name, "second");
  EXPECT_TRUE(records[0].changed);
  EXPECT_FALSE(records[1].changed);
  EXPECT_GE(records[0].seconds, 0);
}

TEST_F(RunnerTest, SkipsByName) {
  options_.skip = {"first"};
  EXPECT_EQ(run({pass("first", add_a), pass("second", add_b)}).size(), 1u);
  EXPECT_EQ(module_->name, "mb");
}

TEST_F(RunnerTest, StopsAfterName) {
  options_.stop_after = "first";
  EXPECT_EQ(run({pass("first", add_a), pass("second", add_b)}).size(), 1u);
  EXPECT_EQ(module_->name, "ma");
}

TEST_F(RunnerTest, StopsAfterSkippedPass) {
  options_.stop_after = options_.skip.emplace_back("first");
  EXPECT_TRUE(run({pass("first", add_a), pass("second", add_b)}).empty());
}

TEST_F(RunnerTest, UnknownNamesListThePasses) {
  const std::vector<Pass> passes = {pass("first", add_a), pass("second", add_b)};
  options_.skip = {"firts"};
  EXPECT_EQ(error_of<UserError>(passes), "skip: there is no pass 'firts' (passes: first, second)");
  options_.skip.clear();
  options_.stop_after = "thrid";
  EXPECT_EQ(error_of<UserError>(passes),
            "stop-after: there is no pass 'thrid' (passes: first, second)");
  EXPECT_EQ(module_->name, "m") << "nothing may run before the names are known";
}

TEST_F(RunnerTest, SweepsDeadOps) {
  const std::string before = ir::print(*module_);
  run({pass("careless", makes_dead_op)});
  EXPECT_EQ(ir::print(*module_), before);
}

TEST_F(RunnerTest, CatchesAPassThatLies) {
  EXPECT_NE(error_of<InternalError>({pass("quiet", lies_no)})
                .find("pass quiet says that it did not change"),
            std::string::npos);
  EXPECT_NE(
      error_of<InternalError>({pass("loud", lies_yes)}).find("pass loud says that it changed"),
      std::string::npos);
}

TEST_F(RunnerTest, ErrorsNameThePass) {
  EXPECT_EQ(error_of<UserError>({pass("strict", throws_user)}), "pass strict: the model is odd");
  const std::string broken =
      error_of<InternalError>({pass("ok", nothing), pass("careless", breaks_types)});
  EXPECT_EQ(broken.rfind("after pass careless: ", 0), 0u) << broken;
}

TEST_F(RunnerTest, ChecksStages) {
  Pass late = pass("late", nothing);
  late.needs = ir::Stage::placed;
  EXPECT_NE(error_of<InternalError>({late}).find("pass late runs at stage"), std::string::npos);
  EXPECT_EQ(error_of<InternalError>({pass("placer", places), late}), "");
  // A fusion works on a placed module too.
  EXPECT_EQ(error_of<InternalError>({pass("any", nothing)}), "");
}

TEST_F(RunnerTest, VerifiesTheInput) {
  module_->find_graph("step")->ops.front()->result()->type.dtype = DType::bf16;
  EXPECT_NE(error_of<UserError>({}), "");
}

class DumpTest : public RunnerTest {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(testing::TempDir()) / "shunt_runner_test_dump";
    std::filesystem::remove_all(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir_))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  std::filesystem::path dir_;
};

TEST_F(DumpTest, WritesTheInputAndEachChange) {
  options_.dump_dir = (dir_ / "deep").string();
  run({pass("first", add_a), pass("second", nothing), pass("third", add_b)});
  dir_ /= "deep";
  EXPECT_EQ(files(), (std::vector<std::string>{"00-input.mir", "01-first.mir", "03-third.mir"}));
  std::ostringstream text;
  text << std::ifstream(dir_ / "03-third.mir").rdbuf();
  EXPECT_EQ(text.str(), ir::print(*module_));
}

TEST_F(DumpTest, NamesTheFileThatCannotBeWritten) {
  std::filesystem::create_directories(dir_);
  std::ofstream(dir_ / "file") << "in the way";
  options_.dump_dir = (dir_ / "file").string();
  EXPECT_NE(error_of<UserError>({}).find("00-input.mir"), std::string::npos);
}

TEST(Pipeline, HasUniqueNamesAndASentenceEach) {
  std::vector<std::string_view> names;
  for (const Pass& p : pipeline()) {
    EXPECT_EQ(std::count(names.begin(), names.end(), p.name), 0) << p.name;
    names.push_back(p.name);
    EXPECT_TRUE(p.doc.ends_with('.')) << p.name;
  }
}

TEST(Pipeline, EveryPassLeavesAnEmptyModuleAlone) {
  ir::Module empty;
  for (const PassRecord& r : run_pipeline(empty, find_target("cpu"), {.check_changed = true})) {
    EXPECT_FALSE(r.changed) << r.name;
  }
}

// ---- split_regimes with options ----

constexpr const char* kStep = R"mir(module @m stage(logical)
dim T in [1, 100]
dim S in [1, 20]
dim R in [1, 20]
graph @step(%x : f32[T, 4]) {
    %a = pointwise %x {expr = "relu(x0)", out = f32} : f32[T, 4]
  return %a
}
)mir";

std::vector<std::string> graph_names(const PassOptions& options) {
  const auto module = ir::parse(kStep);
  run_pipeline(*module, find_target("sm_80"), options);
  std::vector<std::string> names;
  for (const auto& graph : module->graphs) names.push_back(graph->name);
  return names;
}

TEST(Regimes, TakesTheUsersBuckets) {
  EXPECT_EQ(graph_names({.decode_buckets = {3, 8}, .prefill_buckets = {50}}),
            (std::vector<std::string>{"step.decode.3", "step.decode.8", "step.decode.20",
                                      "step.prefill.50", "step.prefill.100"}));
}

TEST(Regimes, CutsBucketsAtTheModulesBound) {
  EXPECT_EQ(graph_names({.decode_buckets = {20, 64}, .prefill_buckets = {1000}}),
            (std::vector<std::string>{"step.decode.20", "step.prefill.100"}));
}

TEST(Regimes, RefusesBucketsOutOfOrder) {
  EXPECT_THROW(graph_names({.decode_buckets = {8, 8}}), UserError);
  EXPECT_THROW(graph_names({.prefill_buckets = {0}}), UserError);
}

}  // namespace
}  // namespace shunt::passes
