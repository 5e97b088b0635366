// DeepSpeed's folders (tests/data/deepspeed) against their goldens: the logical module and the
// module after all passes in the evaluator, and a cpu plan. The same with query_key_value in the
// older layouts; configs and folders that must be refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "ir/error.h"
#include "runtime/checkpoint/file_reader.h"
#include "runtime/checkpoint/strict_json.h"
#include "runtime/checkpoint/torch_file.h"
#include "tests/paths.h"
#include "tools/driver.h"
#include "tools/verify.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPages = 8;

fs::path folder(const std::string& name) {
  return fs::path(source_dir()) / "tests/data/deepspeed" / name;
}

CompileOptions options_for(const fs::path& model) {
  CompileOptions o;
  o.model_dir = model;
  o.target = "cpu";
  o.max_model_len = 16;
  o.max_num_seqs = 2;
  o.max_num_batched_tokens = o.max_logit_rows = 32;  // the gate sees both sequences as one batch
  o.on_warning = [](std::string_view warning) { ADD_FAILURE() << warning; };
  return o;
}

void check(StepRunner& runner, const fs::path& model) {
  const VerifyReport report =
      verify_golden(runner, load_golden(model / "golden.safetensors"), VerifyOptions{});
  for (const VerifyLine& line : report.lines)
    EXPECT_TRUE(line.ok) << line.what << ": " << line.text;
  EXPECT_FALSE(report.lines.empty());
}

class Deepspeed : public testing::TestWithParam<std::string> {};

TEST_P(Deepspeed, logical) {
  const fs::path model = folder(GetParam());
  check(*make_reference_runner(options_for(model), false, kPages), model);
}

TEST_P(Deepspeed, after_passes) {
  const fs::path model = folder(GetParam());
  check(*make_reference_runner(options_for(model), true, kPages), model);
}

TEST_P(Deepspeed, cpu_plan) {
  const fs::path model = folder(GetParam());
  const fs::path plan = fs::path(testing::TempDir()) / ("deepspeed-" + GetParam());
  write_plan(compile(options_for(model)), plan);
  check(*make_plan_runner(plan, kPages), model);
  fs::remove_all(plan);
}

INSTANTIATE_TEST_SUITE_P(Folders, Deepspeed,
                         testing::Values("top1_standard", "top2_residual", "top1_residual_mp2",
                                         "top2_mp2_whole_experts"),
                         [](const auto& info) { return info.param; });

/// A copy of a folder that a test may change.
class DeepspeedCopy : public testing::Test {
 protected:
  void SetUp() override {
    dir_ =
        fs::path(testing::TempDir()) /
        (std::string("deepspeed-") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(dir_);
    fs::copy(folder("top1_residual_mp2"), dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  void edit_config(const std::string& from, const std::string& to) {
    const fs::path path = dir_ / "ds_inference_config.json";
    std::string text = read_text_file(path, 1 << 20);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    std::ofstream(path, std::ios::binary) << text.replace(at, from.size(), to);
  }

  std::string error() {
    try {
      make_reference_runner(options_for(dir_), false, kPages);
    } catch (const UserError& e) {
      return e.what();
    }
    return "no error";
  }
  void expect_error(const std::string& part) {
    const std::string what = error();
    EXPECT_NE(what.find(part), std::string::npos) << what;
  }

  /// Moves row `from(r)` of every query_key_value to row r.
  void permute_qkv(const std::function<int64_t(int64_t)>& from) {
    for (const char* name : {"mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"}) {
      const FileReader reader(dir_ / name);
      const TorchFile file = TorchFile::open(reader);
      std::fstream out(dir_ / name, std::ios::binary | std::ios::in | std::ios::out);
      for (const TensorInfo& t : file.tensors) {
        if (t.name.find("query_key_value") == std::string::npos) continue;
        const int64_t row = t.bytes / t.shape[0];
        std::vector<char> bytes(static_cast<size_t>(t.bytes)), moved(bytes.size());
        reader.read(t.offset, std::as_writable_bytes(std::span(bytes)));
        for (int64_t r = 0; r < t.shape[0]; ++r)
          std::copy_n(bytes.begin() + from(r) * row, row, moved.begin() + r * row);
        out.seekp(t.offset);
        out.write(moved.data(), static_cast<std::streamsize>(moved.size()));
      }
    }
  }

  static constexpr int64_t kHeads = 2, kWidth = 16;  // of one rank
  fs::path dir_;
};

TEST_F(DeepspeedCopy, Version0IsPartHeadWidth) {
  permute_qkv([](int64_t r) {
    const int64_t part = r / (kHeads * kWidth), head = r / kWidth % kHeads, i = r % kWidth;
    return (head * 3 + part) * kWidth + i;
  });
  edit_config("\"version\": 2.0", "\"version\": 0");
  check(*make_reference_runner(options_for(dir_), true, kPages), dir_);
  const fs::path plan = dir_ / "plan";
  write_plan(compile(options_for(dir_)), plan);
  check(*make_plan_runner(plan, kPages), dir_);
}

TEST_F(DeepspeedCopy, Version1IsHeadWidthPart) {
  permute_qkv([](int64_t r) {
    const int64_t head = r / (3 * kWidth), i = r / 3 % kWidth, part = r % 3;
    return (head * 3 + part) * kWidth + i;
  });
  edit_config("\"version\": 2.0", "\"version\": 1.0");
  check(*make_reference_runner(options_for(dir_), true, kPages), dir_);
  const fs::path plan = dir_ / "plan";
  write_plan(compile(options_for(dir_)), plan);
  check(*make_plan_runner(plan, kPages), dir_);
}

TEST_F(DeepspeedCopy, RefusesWhatItDoesNotCompute) {
  edit_config("\"hidden_size\": 64", "\"hidden_size\": 64, \"q_int8\": true");
  expect_error("q_int8");
}

TEST_F(DeepspeedCopy, RefusesUnknownKeys) {
  edit_config("\"hidden_size\": 64", "\"hidden_size\": 64, \"rope_twist\": 3");
  expect_error("rope_twist");
}

TEST_F(DeepspeedCopy, NamesTensorsThatNothingAsksFor) {
  edit_config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
  expect_error("is not used by family 'deepspeed' and could change the result");
}

TEST_F(DeepspeedCopy, NamesAMissingExpertFile) {
  fs::remove(dir_ / "layer_1_expert_2_mp_rank_01_model_states.pt");
  expect_error("layer_1_expert_2_mp_rank_01_model_states.pt");
}

TEST_F(DeepspeedCopy, NamesATensorOfAnotherShape) {
  edit_config("\"intermediate_size\": 256", "\"intermediate_size\": 250");
  expect_error("expected [125, 64] from ds_inference_config.json");
}

TEST_F(DeepspeedCopy, NamesTheForeignClassAWeightDependsOn) {
  fs::copy_file(fs::path(source_dir()) / "tests/data/pickle/os_system.pt",
                dir_ / "mp_rank_00_model_states.pt", fs::copy_options::overwrite_existing);
  expect_error("os.system");
}

}  // namespace
}  // namespace shunt
