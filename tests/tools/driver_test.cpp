// `compile`: the same bytes every time, what --dry-run promises is what a session takes, caches,
// dumps, and the shapes of large models without their weights.
#include "tools/driver.h"

#include <gtest/gtest.h>

#include "ir/error.h"
#include "runtime/session.h"
#include "tests/tools/program.h"

namespace shunt::test {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

TEST(Compile, TwiceGivesTheSameBytes) {
  const TempDir folder;
  for (const auto& [target, first] :
       {std::pair<std::string, fs::path>("cpu", cpu_plan()), {"sm_90a", gpu_plan()}}) {
    const std::string second = folder / target;
    const Ran r = shunt({"compile", storyteller(), "-o", second, "--target", target});
    ASSERT_EQ(r.code, 0) << r.err;
    const auto a = contents(first), b = contents(second);
    ASSERT_GT(a.size(), 1u);
    EXPECT_TRUE(a == b) << "the second plan for " << target << " differs";
    if (target != "cpu") {
      EXPECT_NE(r.err.find(" 0 compiled, "), std::string::npos) << "not from the cache: " << r.err;
    }
  }
}

TEST(Compile, KernelsCompiledAnewAreTheSame) {
  const TempDir folder;
  const std::string model = data("conformance/llama"),
                    command = "$SHUNT compile " + model +
                              " --target sm_80 --max-num-seqs 1 --max-num-batched-tokens 8 -o ";
  for (const std::string name : {"a", "b"}) {
    const Ran r =
        shell("SHUNT_CACHE_DIR=" + (folder / ("cache-" + name)) + " " + command + (folder / name));
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_NE(r.err.find(", 0 from the cache"), std::string::npos) << r.err;
  }
  EXPECT_TRUE(contents(folder / "a") == contents(folder / "b"));
}

TEST(Compile, AGpuPlanIsWhole) {
  const auto files = contents(gpu_plan());
  const json plan = json::parse(read_file(gpu_plan() / "plan.json"));
  size_t kernels = 0;
  for (const auto& k : plan.at("kernels")) {
    const std::string base = "kernels/" + k.at("digest").get<std::string>();
    EXPECT_EQ(read_file(gpu_plan() / (base + ".cubin")).substr(1, 3), "ELF");
    EXPECT_NE(read_file(gpu_plan() / (base + ".cu")).find("__global__"), std::string::npos);
    ++kernels;
  }
  EXPECT_EQ(files.size(), 2 * kernels + 2);  // and kernels/ and plan.json
}

TEST(Compile, ReplacesAPlanAndLeavesNothingElse) {
  const TempDir folder;
  const std::string plan = folder / "deep/er/plan";
  for (const char* length : {"64", "128"}) {
    const Ran r =
        shunt({"compile", storyteller(), "--target", "cpu", "-o", plan, "--max-model-len", length});
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(json::parse(read_file(plan + "/plan.json")).at("limits").at("max_model_len"),
              std::atoi(length));
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path() / "deep" / "er"), {}), 1);
  }
  fs::create_directory_symlink(plan, folder / "link");
  ASSERT_EQ(shunt({"compile", storyteller(), "--target", "cpu", "-o", folder / "link"}).code, 0);
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(json::parse(read_file(plan + "/plan.json")).at("limits").at("max_model_len"), 2048);
}

TEST(DryRun, WritesNothing) {
  const TempDir folder;
  const Ran r = shunt({"compile", storyteller(), "--target", "cpu", "--dry-run", "-o", "plan"},
                      folder.path());
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_TRUE(contents(folder.path()).empty());
  EXPECT_NE(r.out.find("weights "), std::string::npos) << r.out;
}

TEST(DryRun, BytesAreWhatASessionTakes) {
  for (const std::string& model : {storyteller(), data("conformance/llama"),
                                   data("conformance/olmoe"), data("conformance/qwen3_next")}) {
    const std::vector<std::string> flags = {"--target",        "cpu", "--max-num-seqs", "4",
                                            "--max-model-len", "200"};
    const TempDir folder;
    std::vector<std::string> args = {"compile", model, "--dry-run", "--json"};
    args.insert(args.end(), flags.begin(), flags.end());
    const Ran r = shunt(args);
    ASSERT_EQ(r.code, 0) << r.err;
    const json promised = json::parse(r.out);
    args = {"compile", model, "-o", folder / "plan"};
    args.insert(args.end(), flags.begin(), flags.end());
    ASSERT_EQ(shunt(args).code, 0);
    SessionOptions options;
    options.kv_pages = promised.at("kv_pages");
    const Session session(load_plan(folder / "plan"), folder / "plan", options);
    const MemoryUse used = session.memory();
    EXPECT_EQ(promised.at("weights_bytes"), used.weights);
    EXPECT_EQ(promised.at("kv_bytes"), used.state);
    EXPECT_EQ(promised.at("recurrent_state_bytes"), used.slots);
    EXPECT_EQ(promised.at("activation_bytes"), used.workspace + used.io);
    EXPECT_EQ(promised.at("total_bytes"), used.total());
    // What a session takes unless told otherwise is the same: enough for all sequences.
    EXPECT_EQ(Session(load_plan(folder / "plan"), folder / "plan", {}).pages(),
              promised.at("kv_pages"));
  }
}

TEST(DryRun, LargeShapesNeedOnlyTheirConfig) {
  const std::vector<std::pair<std::string, double>> shapes = {{"qwen3-30b-a3b", 30.5e9},
                                                              {"mixtral-8x7b", 46.7e9},
                                                              {"olmoe-1b-7b", 6.9e9},
                                                              {"lfm2-8b-a1b", 8.34e9},
                                                              {"qwen3-next-80b-a3b", 79.7e9}};
  for (const auto& [name, parameters] : shapes) {
    SCOPED_TRACE(name);
    const TempDir folder;
    fs::copy_file(data("configs/" + name + ".json"), folder / "config.json");
    for (const std::string target : {"cpu", "sm_90a"}) {
      const Ran r = shunt(
          {"compile", folder.path(), "--dummy-weights", "--dry-run", "--json", "--target", target});
      ASSERT_EQ(r.code, 0) << r.err;
      EXPECT_NEAR(json::parse(r.out).at("weights_bytes").get<double>(), 2 * parameters,
                  0.01 * 2 * parameters);
    }
    const Ran r = shunt({"compile", folder.path(), "--dry-run", "--target", "cpu"});
    EXPECT_EQ(r.code, 2);
    EXPECT_NE(r.err.find("model.safetensors"), std::string::npos) << r.err;
  }
}

TEST(Compile, DummyWeightsRun) {
  const TempDir folder;
  fs::copy_file(data("conformance/olmoe/config.json"), folder / "config.json");
  const std::string plan = folder / "plan";
  ASSERT_EQ(
      shunt({"compile", folder.path(), "--dummy-weights", "--target", "cpu", "-o", plan}).code, 0);
  EXPECT_EQ(json::parse(read_file(plan + "/plan.json")).at("model_directory"), "");
  const Ran r = shunt({"run", plan, "--ids", "-p", "5,6,7", "-n", "4", "--ignore-eos"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(std::count(r.out.begin(), r.out.end(), ','), 3) << r.out;
}

TEST(Compile, Dumps) {
  const TempDir folder;
  const Ran r =
      shunt({"compile", storyteller(), "--target", "sm_90a", "-o", folder / "plan",
             "--dump-phases-to", folder / "phases", "--dump-kernels-to", folder / "dump"});
  ASSERT_EQ(r.code, 0) << r.err;
  int phases = 0;
  for (const auto& [name, text] : contents(folder / "phases")) {
    EXPECT_TRUE(name.ends_with(".mir")) << name;
    EXPECT_EQ(shunt({"inspect", folder / ("phases/" + name), "--show", "summary"}).code, 0) << name;
    ++phases;
  }
  EXPECT_GE(phases, 5);
  EXPECT_TRUE(fs::exists(folder / "phases/00-input.mir"));
  EXPECT_TRUE(contents(folder / "dump/kernels") == contents(folder / "plan/kernels"));
}

TEST(Compile, PhasesArePrintedWithSeconds) {
  const Ran r = shunt({"compile", data("conformance/mixtral"), "--target", "cpu", "--dry-run"});
  for (const char* phase : {"import ", "fuse_glu ", "lower "}) {
    const size_t at = r.err.find(phase);
    ASSERT_NE(at, std::string::npos) << r.err;
    EXPECT_NE(r.err.substr(at, r.err.find('\n', at) - at).find(" s"), std::string::npos) << r.err;
  }
}

class Cache : public testing::Test {
 protected:
  void SetUp() override { copy_model("olmoe", model_); }
  CachedPlan compiled() {
    CompileOptions o;
    o.model_dir = model_;
    o.cache_dir = folder_ / "cache";
    return compile_cached(o);
  }
  TempDir folder_;
  const std::string model_ = folder_ / "model";
};

TEST_F(Cache, PlansAreReused) {
  const CachedPlan first = compiled();
  EXPECT_FALSE(first.was_cached);
  const auto written = fs::last_write_time(first.directory / "plan.json");
  const CachedPlan second = compiled();
  EXPECT_TRUE(second.was_cached);
  EXPECT_EQ(second.directory, first.directory);
  EXPECT_EQ(fs::last_write_time(first.directory / "plan.json"), written);
  EXPECT_TRUE(load_plan(first.directory) == load_plan(second.directory));
}

TEST_F(Cache, AnotherCheckpointIsAnotherPlan) {
  const CachedPlan first = compiled();
  Safetensors weights(model_ + "/model.safetensors");
  weights.header["__metadata__"] = {{"format", "other"}};
  weights.write(model_ + "/model.safetensors");
  const CachedPlan second = compiled();
  EXPECT_FALSE(second.was_cached);
  EXPECT_NE(second.directory, first.directory);
  json config = json::parse(read_file(model_ + "/config.json"));
  config["rms_norm_eps"] = 1e-3;
  write_file(model_ + "/config.json", config.dump());
  EXPECT_FALSE(compiled().was_cached);
}

TEST_F(Cache, ADamagedModelIsNoPlan) {
  compiled();
  fs::resize_file(model_ + "/model.safetensors", 1000);
  EXPECT_THROW(compiled(), UserError);
}

TEST_F(Cache, RunSaysWhatItDid) {
  const std::vector<std::string> args = {"run", model_, "--target", "cpu", "--ids",
                                         "-p",  "1,2",  "-n",       "3"};
  const Ran first = shunt(args), second = shunt(args);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.err.find("compiled " + model_ + " for cpu"), std::string::npos) << first.err;
  EXPECT_NE(second.err.find("using the cached plan of " + model_), std::string::npos) << second.err;
  EXPECT_EQ(first.out, second.out);
  const Ran no_gpu = shunt({"run", model_, "--ids", "-p", "1", "-n", "1"});
  EXPECT_NE(no_gpu.err.find("no GPU found: running on the cpu target"), std::string::npos)
      << no_gpu.err;
}

TEST_F(Cache, SeveralAtOnce) {
  const std::string command = "$SHUNT run " + model_ + " --target cpu --ids -p 1,2 -n 3 -q";
  const Ran r =
      shell("export SHUNT_CACHE_DIR=" + (folder_ / "shared") + "; for i in 1 2 3 4 5 6; do " +
            command + " & pids=\"$pids $!\"; done; for p in $pids; do wait $p || exit 9; done");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(std::count(r.out.begin(), r.out.end(), '\n'), 6) << r.out;
}

}  // namespace

}  // namespace shunt::test
