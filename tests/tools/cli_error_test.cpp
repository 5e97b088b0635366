// Every kind of bad input ends in one line on stderr that names what is wrong, with the exit code
// of docs/cli.md, and leaves nothing behind.
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>

#include "tests/tools/program.h"

namespace shunt::test {

namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int kBadInput = 2, kIncompatible = 3;

/// Exit code, an error of one line as the last on stderr that contains every one of `parts`, and
/// nothing on stdout.
void expect_error(const Ran& r, int code, const std::vector<std::string>& parts) {
  EXPECT_EQ(r.code, code) << r.err;
  EXPECT_EQ(r.out, "");
  const size_t at = r.err.find("shunt: error: ");
  ASSERT_NE(at, std::string::npos) << r.err;
  EXPECT_EQ(r.err.find('\n', at), r.err.size() - 1) << "more than one line: " << r.err;
  for (const std::string& part : parts)
    EXPECT_NE(r.err.find(part, at), std::string::npos) << part << "\nin " << r.err;
}

/// A copy of a conformance model to damage, and a plan made from it before.
class BadModel : public testing::Test {
 protected:
  void SetUp() override {
    copy_model("mixtral", model_);
    const Ran r = shunt({"compile", model_, "-o", plan_, "--target", "cpu"});
    ASSERT_EQ(r.code, 0) << r.err;
  }
  /// `compile` of the model as it is now fails, and writes nothing.
  void expect_compile_error(const std::vector<std::string>& parts) {
    const std::string out = folder_ / "never";
    expect_error(shunt({"compile", model_, "-o", out, "--target", "cpu"}), kBadInput, parts);
    EXPECT_EQ(fs::exists(out), false);
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      EXPECT_TRUE(entry.path() == model_ || entry.path() == plan_)
          << "left behind: " << entry.path();
    }
  }
  void edit_tensors(const std::function<void(Safetensors&)>& edit) {
    Safetensors file(weights_);
    edit(file);
    file.write(weights_);
  }
  void edit_config(const std::function<void(ordered_json&)>& edit) {
    const fs::path path = fs::path(model_) / "config.json";
    ordered_json config = ordered_json::parse(read_file(path));
    edit(config);
    write_file(path, config.dump(2));
  }
  void edit_plan(const std::function<void(ordered_json&)>& edit) {
    const fs::path path = fs::path(plan_) / "plan.json";
    ordered_json plan = ordered_json::parse(read_file(path));
    edit(plan);
    write_file(path, plan.dump());
  }
  Ran run_plan(const std::vector<std::string>& more = {"-p", "1,2,3"}) {
    std::vector<std::string> args = {"run", plan_, "--ids", "-n", "2"};
    args.insert(args.end(), more.begin(), more.end());
    return shunt(args);
  }
  /// The index of a sharded model whose only shard is the model's file.
  void write_index(const std::string& shard) {
    ordered_json map;
    const Safetensors file(weights_);
    for (const auto& [name, tensor] : file.header.items()) {
      if (name != "__metadata__") map[name] = shard;
    }
    fs::rename(weights_, fs::path(model_) / "shard.safetensors");
    write_file(fs::path(model_) / "model.safetensors.index.json",
               ordered_json{{"weight_map", map}}.dump());
  }

  TempDir folder_;
  const std::string model_ = folder_ / "model", plan_ = folder_ / "plan";
  const std::string weights_ = model_ + "/model.safetensors";
};

constexpr const char* kTensor = "model.layers.0.self_attn.q_proj.weight";

TEST_F(BadModel, IsFineBefore) {
  EXPECT_EQ(run_plan().code, 0);
  write_index("shard.safetensors");
  EXPECT_EQ(shunt({"compile", model_, "--dry-run", "--target", "cpu"}).code, 0);
}

TEST_F(BadModel, NoWeights) {
  fs::remove(weights_);
  expect_compile_error({model_, "model.safetensors"});
  expect_error(run_plan(), kBadInput, {weights_, "no such file"});
}

TEST_F(BadModel, TruncatedWeights) {
  fs::resize_file(weights_, fs::file_size(weights_) / 2);
  expect_compile_error({weights_, "truncated"});
  expect_error(run_plan(), kIncompatible, {weights_, "compile the plan again"});
  fs::resize_file(weights_, 5);
  expect_compile_error({weights_});
  write_file(weights_, "");
  expect_compile_error({weights_});
}

TEST_F(BadModel, OverlappingTensors) {
  edit_tensors([](Safetensors& f) {
    auto& offsets = f.header.at(kTensor).at("data_offsets");
    const int64_t shift = offsets[0] == 0 ? 64 : -64;
    for (auto& o : offsets) o = o.get<int64_t>() + shift;
  });
  expect_compile_error({weights_, "overlap"});
}

TEST_F(BadModel, OversizedWeights) {
  write_file(weights_, read_file(weights_) + std::string(128, 'x'));
  expect_compile_error({weights_});
}

TEST_F(BadModel, HeaderLongerThanTheFile) {
  std::string bytes = read_file(weights_);
  bytes.replace(0, 8, std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8));
  write_file(weights_, bytes);
  expect_compile_error({weights_, "header"});
}

TEST_F(BadModel, OffsetsBeyondTheFile) {
  std::string last;
  edit_tensors([&](Safetensors& f) {
    for (auto& [name, tensor] : f.header.items()) {
      if (name == "__metadata__") continue;
      const int64_t begin = tensor.at("data_offsets")[0], end = tensor.at("data_offsets")[1];
      if (end != static_cast<int64_t>(f.data.size())) continue;
      last = name;
      tensor["shape"] = {int64_t{1} << 53, 64};
      tensor["data_offsets"] = {begin, begin + (int64_t{1} << 60)};
    }
  });
  expect_compile_error({weights_, last, "truncated"});
}

TEST_F(BadModel, WrongShape) {
  edit_tensors([](Safetensors& f) { f.header.at(kTensor)["shape"] = {32, 128}; });
  expect_compile_error({kTensor, "32, 128", "64, 64"});
}

TEST_F(BadModel, WrongDtype) {
  edit_tensors([](Safetensors& f) {
    f.header.at(kTensor)["dtype"] = "I64";
    f.header.at(kTensor)["shape"] = {16, 64};
  });
  expect_compile_error({kTensor});
  edit_tensors([](Safetensors& f) { f.header.at(kTensor)["dtype"] = "BF17"; });
  expect_compile_error({weights_, kTensor, "BF17"});
}

TEST_F(BadModel, TensorThatNothingAsksFor) {
  const std::string extra = "model.layers.0.self_attn.wobble.weight";
  edit_tensors([&](Safetensors& f) {
    const int64_t end = static_cast<int64_t>(f.data.size());
    f.header[extra] = {{"dtype", "BF16"}, {"shape", {2}}, {"data_offsets", {end, end + 4}}};
    f.data += std::string(4, '\0');
  });
  expect_compile_error({extra, "--allow-unused-tensors"});
  const Ran ran =
      shunt({"compile", model_, "-o", plan_, "--target", "cpu", "--allow-unused-tensors"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.err.find(extra), std::string::npos) << ran.err;  // a warning
}

TEST_F(BadModel, MissingTensor) {
  edit_tensors([](Safetensors& f) {
    f.header["model.layers.0.self_attn.k_bruch.weight"] = f.header.at(kTensor);
    f.header.erase(kTensor);
  });
  expect_compile_error({kTensor});
}

TEST_F(BadModel, IndexNamesAMissingShard) {
  write_index("model-00001-of-00009.safetensors");
  expect_compile_error(
      {"model.safetensors.index.json", "model-00001-of-00009.safetensors", "does not exist"});
}

TEST_F(BadModel, IndexLeavesTheFolder) {
  copy_model("mixtral", folder_.path() / "model" / "inner");
  write_index("../model/inner/model.safetensors");
  expect_compile_error({"model.safetensors.index.json", "../model/inner/model.safetensors"});
  fs::rename(fs::path(model_) / "shard.safetensors", weights_);
  write_index(weights_);  // absolute
  expect_compile_error({"model.safetensors.index.json", weights_});
}

TEST_F(BadModel, UnknownModelType) {
  edit_config([](ordered_json& c) { c["model_type"] = "perceptron_9000"; });
  expect_compile_error({"config.json", "model_type", "perceptron_9000", "mixtral"});
}

TEST_F(BadModel, KeysThatWouldChangeTheMaths) {
  const std::vector<std::pair<std::string, ordered_json>> keys = {
      {"logit_soft_wrap", 30.0}, {"hidden_act", "swish_of_death"}, {"attention_twist", true}};
  const std::string original = read_file(fs::path(model_) / "config.json");
  for (const auto& [key, value] : keys) {
    edit_config([&](ordered_json& c) { c[key] = value; });
    expect_compile_error({"config.json", key});
    write_file(fs::path(model_) / "config.json", original);
  }
}

TEST_F(BadModel, ConfigThatIsNoConfig) {
  edit_config([](ordered_json& c) { c["num_hidden_layers"] = -3; });
  expect_compile_error({"config.json", "num_hidden_layers", "-3"});
  edit_config([](ordered_json& c) { c.erase("num_hidden_layers"); });
  expect_compile_error({"config.json", "num_hidden_layers", "missing"});
  write_file(fs::path(model_) / "config.json", "{\"model_type\": ");
  expect_compile_error({"config.json"});
  fs::remove(fs::path(model_) / "config.json");
  expect_compile_error({"config.json"});
}

TEST_F(BadModel, PlanOfAnotherFormat) {
  edit_plan([](ordered_json& p) { p["format"] = p["format"].get<int>() + 1; });
  expect_error(run_plan(), kIncompatible, {"format"});
  expect_error(shunt({"inspect", plan_}), kIncompatible, {"format"});
}

TEST_F(BadModel, PlanOfAnotherTarget) {
  expect_error(run_plan({"-p", "1", "--target", "sm_90a"}), kIncompatible,
               {plan_, "cpu", "sm_90a"});
  edit_plan([](ordered_json& p) { p["target"] = "sm_61"; });
  expect_error(run_plan(), kIncompatible, {"sm_61"});
}

TEST_F(BadModel, PlanWithAnEditedOffset) {
  edit_plan([](ordered_json& p) { p["buffers"][3]["offset"] = int64_t{1} << 40; });
  expect_error(run_plan(), kIncompatible, {"buffers[3]"});
}

TEST_F(BadModel, PlanWithAnUnknownKey) {
  edit_plan([](ordered_json& p) { p["buffers"][3]["colour"] = "green"; });
  expect_error(run_plan(), kIncompatible, {"buffers[3]", "colour"});
}

TEST_F(BadModel, PlanThatIsCut) {
  const fs::path path = fs::path(plan_) / "plan.json";
  write_file(path, read_file(path).substr(0, 1000));
  expect_error(run_plan(), kIncompatible, {"plan.json"});
}

TEST_F(BadModel, CheckpointChangedAfterCompile) {
  Safetensors file(weights_);
  file.header["__metadata__"] = {{"format", "xx"}};
  file.write(weights_);
  expect_error(run_plan(), kIncompatible, {weights_, "compile the plan again"});
  fs::rename(model_, folder_ / "moved");
  expect_error(run_plan(), kBadInput, {weights_});
}

TEST_F(BadModel, Prompts) {
  const auto refused = [&](const std::string& prompt, const std::vector<std::string>& parts) {
    SCOPED_TRACE(prompt.substr(0, 40));
    expect_error(run_plan({"-p", prompt}), kBadInput, parts);
  };
  std::string long_prompt = "1";
  for (int i = 0; i < 600; ++i) long_prompt += ",1";
  refused(long_prompt, {"601 tokens", "512", "--max-model-len"});
  refused("1,128", {"token 1", "128", "vocabulary"});
  refused("-1", {"token 0", "-1"});
  refused("", {"empty"});
  refused("1,two", {"--ids", "1,two"});
  refused("1,,2", {"--ids"});
  refused("99999999999999", {"--ids"});
  expect_error(run_plan({"-p", "1,2", "-p", "1,999"}), kBadInput, {"prompt 1", "999"});
}

TEST(CliError, TextPrompts) {
  expect_error(shunt({"run", cpu_plan(), "-p", "a\xff z"}), kBadInput, {"UTF-8", "byte 1"});
  expect_error(shunt({"run", cpu_plan(), "-p", ""}), kBadInput, {"empty"});
}

TEST_F(BadModel, TokenizerMissing) {
  expect_error(shunt({"run", plan_, "-p", "hello"}), kBadInput, {"tokenizer.json", "--ids"});
}

TEST_F(BadModel, TokenizerOfAnotherKind) {
  write_file(fs::path(model_) / "tokenizer.json",
             R"({"model": {"type": "WordLevel", "vocab": {"a": 0}}, "decoder": null})");
  expect_error(shunt({"run", plan_, "-p", "hello"}), kBadInput,
               {"tokenizer.json: model", "'WordLevel'", "--ids"});
  write_file(fs::path(model_) / "tokenizer.json", "{\"model\": ");
  expect_error(shunt({"run", plan_, "-p", "hello"}), kBadInput, {"tokenizer.json"});
  const Ran ids = shunt({"run", plan_, "-p", "1,2", "-n", "1", "--ids"});
  EXPECT_EQ(ids.code, 0) << ids.err;  // no tokenizer is needed
}

TEST(CliError, MisspeltFlagsComeFirst) {
  expect_error(shunt({"run", storyteller(), "--promt", "hi"}), kBadInput,
               {"unknown flag --promt", "shunt run -h"});
  expect_error(shunt({"bench", storyteller(), "-x", "3"}), kBadInput, {"unknown flag -x"});
}

TEST(CliError, GpuPlanWithoutGpu) {
  expect_error(shunt({"run", gpu_plan(), "-p", "hi", "--sealed"}), kIncompatible,
               {"sm_90a", "GPU"});
  expect_error(shunt({"bench", gpu_plan(), "-p", "8", "-n", "2", "-b", "1"}), kIncompatible,
               {"sm_90a", "GPU"});
  for (const char* ranks : {"1", "2"}) {
    expect_error(shunt({"run", storyteller(), "-p", "hi", "--target", "sm_90a", "--tp", ranks}),
                 kIncompatible, {"sm_90a", "GPU"});
  }
  expect_error(shunt({"verify", storyteller(), "--golden", data("storyteller/golden.json"),
                      "--target", "sm_80"}),
               kIncompatible, {"sm_80", "GPU"});
}

TEST(CliError, Flags) {
  const std::string model = storyteller(), plan = cpu_plan();
  const auto refused = [](const std::vector<std::string>& args,
                          const std::vector<std::string>& parts) {
    std::string line;
    for (const std::string& a : args) line += a + ' ';
    SCOPED_TRACE(line);
    expect_error(shunt(args), kBadInput, parts);
  };
  refused({}, {"shunt -h"});
  refused({"frobnicate"}, {"frobnicate", "compile run inspect verify bench"});
  refused({"run", model}, {"--prompt", "shunt run -h"});
  refused({"run", model, "-p", "a", "--colour"}, {"--colour"});
  refused({"run", model, "-p", "a", "-n", "0"}, {"--tokens", "0"});
  refused({"run", plan, "-p", "a", "--temperature", "-1"}, {"temperature", "-1"});
  refused({"run", plan, "-p", "a", "--temperature", "nan"}, {"temperature", "nan"});
  refused({"run", plan, "-p", "a", "--top-p", "1.5"}, {"top-p", "1.5"});
  refused({"run", plan, "-p", "a", "--top-k", "-2"}, {"top-k", "-2"});
  refused({"run", plan, "-p", "a", "--seed", "-1"}, {"--seed"});
  refused({"run", plan, "-p", "a", "--threads", "-1"}, {"--threads"});
  refused({"run", plan, "-p", "a", "--kv-pages", "-1"}, {"kv-pages"});
  refused({"run", plan, "-p", "a", "--kv-pages", "1", "-n", "500"}, {"--kv-pages"});
  refused({"run", plan, "-p", "a", "--max-model-len", "99"}, {"--max-model-len", plan});
  refused({"run", model, "-p", "a", "--sealed"}, {"--sealed", "shunt compile"});
  refused({"run", "/no/such/model", "-p", "a"}, {"/no/such/model", "no such"});
  refused({"run", plan + "/plan.json", "-p", "a"}, {"plan.json", "file"});
  refused({"inspect", "/no/such/model"}, {"/no/such/model"});
  refused({"inspect", "/no/such.mir"}, {"/no/such.mir"});
  refused({"inspect", plan, "--show", "everything"}, {"--show", "everything", "summary"});
  refused({"inspect", plan, "--program", "step.sideways"}, {"step.sideways", "step.decode.1"});
  refused({"compile", "/no/such/model", "-o", "x"}, {"/no/such/model"});
  refused({"compile", model}, {"-o PLAN"});
  refused({"compile", plan, "-o", "x"}, {plan, "is a plan"});
  refused({"run", plan, "-p", "a", "--comm-timeout", "nan"}, {"--comm-timeout", "nan"});
  refused({"verify", model, "--atol", "nan"}, {"--atol", "nan"});
  refused({"verify", data("deepspeed/top2_residual"), "--target", "cpu", "--dp", "2"},
          {"capacity_factor", "dp 2"});
  refused({"compile", model, "--dry-run", "--tp", "5000"}, {"--tp", "5000", "4096"});
  refused({"compile", model, "--dry-run", "--tp", "4096", "--dp", "2"}, {"4096 ranks"});
  refused({"compile", model, "--dry-run", "--tp", "2", "--batch", "65"}, {"65", "64", "--batch"});
  refused({"compile", model, "--gpus", "2", "--explain", "--context", "2049"},
          {"2049", "2048", "--max-model-len"});
  refused({"compile", model, "--dry-run", "--target", "sm_61"}, {"--target", "sm_61", "sm_90a"});
  refused({"compile", model, "--dry-run", "--dtype", "int4"}, {"--dtype", "int4", "bf16"});
  refused({"compile", model, "--dry-run", "--target", "cpu", "--dtype", "bf16"},
          {"--dtype bf16", "cpu"});
  refused({"compile", model, "--dry-run", "--max-model-len", "-5"}, {"--max-model-len"});
  refused({"compile", model, "--dry-run", "--max-model-len", "99999"},
          {"99999", "2048", "max_position_embeddings"});
  refused({"compile", model, "--dry-run", "--max-num-seqs", "9", "--max-num-batched-tokens", "8"},
          {"max-num-batched-tokens 8", "max-num-seqs 9"});
  refused({"verify", model}, {model, "--golden"});
  refused({"verify", plan, "--golden", data("storyteller/golden.json"), "--logical"},
          {"--logical", plan});
  refused({"verify", model, "--golden", "/no/such.json"}, {"/no/such.json"});
  refused({"verify", model, "--golden", model + "/config.json"}, {"config.json", "golden"});
  refused({"verify", model, "--golden", data("conformance/olmoe/golden.safetensors")},
          {"another model"});
  refused({"verify", model, "--text", model}, {model, "folder"});
  refused({"verify", model, "--text", data("storyteller/heldout.txt"), "--tokens", "99999999"},
          {"99999999"});
  refused({"bench", plan, "-p", "4096"}, {"4096", "--max-model-len"});
  refused({"bench", plan, "-p", "8", "-b", "1000"}, {"1000", "--max-num-seqs"});
  refused({"bench", plan, "-p", "8", "--routing", "uniform"}, {"--routing uniform"});
}

TEST(CliError, OutputPlaces) {
  const TempDir folder;
  const auto refused = [&](const std::string& out, const std::vector<std::string>& parts) {
    SCOPED_TRACE(out);
    const auto before = contents(folder.path());
    expect_error(shunt({"compile", storyteller(), "--target", "cpu", "-o", out}), kBadInput, parts);
    EXPECT_EQ(contents(folder.path()), before);
  };
  write_file(folder / "file", "precious");
  write_file(folder / "empty", "");
  fs::create_directories(folder.path() / "full" / "kernels");
  write_file(folder / "full/notes.txt", "precious");
  refused(folder / "file", {folder / "file", "not a plan"});
  refused(folder / "empty", {folder / "empty", "not a plan"});
  refused(folder / "full", {folder / "full", "not a plan"});
  refused(folder / "file/below", {folder / "file"});
  expect_error(shunt({"compile", storyteller(), "--dry-run", "--dump-phases-to", folder / "file"}),
               kBadInput, {folder / "file"});
  expect_error(shell("$SHUNT inspect " + storyteller() + " >/dev/full"), kBadInput, {"rite"});
  if (::geteuid() == 0) return;  // root writes anywhere
  fs::create_directory(folder.path() / "locked");
  fs::permissions(folder.path() / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  refused(folder / "locked/plan", {folder / "locked"});
  expect_error(
      shell("SHUNT_CACHE_DIR=" + (folder / "locked") + " $SHUNT run " + storyteller() + " -p a"),
      kBadInput, {folder / "locked"});
}

}  // namespace

}  // namespace shunt::test
