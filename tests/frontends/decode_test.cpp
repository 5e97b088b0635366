// Every folder of tests/data/conformance on a cpu plan: decoding one token at a time through the
// states equals one pass over the whole sequence, and a batch of unequal lengths equals runs of its
// sequences alone, within the tolerance of `verify`. Sequences are longer than a page.
// Gates with a capacity depend on the batch by definition: for the DeepSpeed folders the plan must
// follow the evaluator's rule, whatever the batch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/frontends/cpu_model.h"
#include "tests/frontends/model_dir.h"
#include "tests/paths.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(source_dir()) / "tests/data";
constexpr int64_t kLength = 72;  // more than a page, and than every window and chunk of the kit

/// verify's tolerance, row by row so that a message says where.
void expect_rows(const Matrix& got, int64_t got_row, const Matrix& want, int64_t want_row,
                 int64_t rows, const std::string& what) {
  ASSERT_EQ(got.cols, want.cols);
  double sum = 0, squares = 0;
  for (const float x : want.data) sum += x, squares += double{x} * x;
  const auto n = static_cast<double>(want.data.size());
  const double allowed = 1e-3 * std::max(1.0, std::sqrt(squares / n - sum / n * sum / n));
  for (int64_t r = 0; r < rows; ++r) {
    double largest = 0;
    for (int64_t c = 0; c < got.cols; ++c) {
      const double error = std::abs(got.row(got_row + r)[c] - want.row(want_row + r)[c]);
      largest = std::isfinite(error) ? std::max(largest, error) : INFINITY;
    }
    ASSERT_LE(largest, allowed) << what << ", row " << r;
  }
}

class Decode : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const fs::path folder = kData / "conformance" / GetParam();
    model_ = std::make_unique<CpuModel>(small_cpu_options(folder));
    golden_ = load_golden(folder / "golden.safetensors");
    const int64_t vocab = model_->runner().vocab_size();
    for (const GoldenSequence& s : golden_) ids_.push_back(s.ids);
    for (std::vector<int32_t>& ids : ids_) {  // longer than the kit's, with other neighbours
      const std::vector<int32_t> more = some_ids(kLength, vocab);
      while (static_cast<int64_t>(ids.size()) < kLength) ids.push_back(more[ids.size()]);
    }
    ids_.push_back({ids_[0].begin() + 3, ids_[0].begin() + 10});
    ids_.push_back({ids_[1].begin() + 5, ids_[1].begin() + 6});
    for (const std::vector<int32_t>& ids : ids_) alone_.push_back(logits_of(model_->runner(), ids));
  }

  std::unique_ptr<CpuModel> model_;
  std::vector<GoldenSequence> golden_;
  std::vector<std::vector<int32_t>> ids_;  // two of kLength, one of 7, one of 1
  std::vector<Matrix> alone_;              // logits of each in a pass of its own
};

TEST_P(Decode, one_token_at_a_time_equals_the_full_pass) {
  if (golden_[0].greedy_ids.empty()) GTEST_SKIP() << "an encoder";
  SequenceFeeder feeder(model_->runner(), 2, kLength);
  for (int64_t t = 0; t < kLength; ++t) {
    const auto at = static_cast<size_t>(t);
    const Matrix logits =
        feeder.decode(std::vector<int32_t>{ids_[0][at], ids_[1][at]}, false).logits;
    for (int64_t s = 0; s < 2; ++s) {
      expect_rows(logits, s, alone_[static_cast<size_t>(s)], t, 1,
                  fmt::format("sequence {}, token {}", s, t));
    }
    if (HasFatalFailure()) return;
  }
}

TEST_P(Decode, a_prompt_in_parts_equals_the_full_pass) {
  if (golden_[0].greedy_ids.empty()) GTEST_SKIP() << "an encoder";
  SequenceFeeder feeder(model_->runner(), 1, kLength);
  int64_t begin = 0;
  for (const int64_t n : {5, 1, 37, 9, 20}) {
    const std::span<const int32_t> part(ids_[0].data() + begin, static_cast<size_t>(n));
    expect_rows(feeder.append(0, part, false).logits, 0, alone_[0], begin, n,
                fmt::format("tokens from {} on", begin));
    begin += n;
  }
  EXPECT_EQ(begin, kLength);
}

TEST_P(Decode, a_batch_of_unequal_lengths_equals_single_runs) {
  for (const std::vector<size_t>& order : {std::vector<size_t>{0, 2, 1, 3}, {3, 2, 0}}) {
    SequenceFeeder feeder(model_->runner(), static_cast<int64_t>(order.size()), kLength);
    std::vector<std::span<const int32_t>> batch;
    for (const size_t i : order) batch.emplace_back(ids_[i]);
    const Matrix logits = feeder.append_batch(batch, false).logits;
    int64_t row = 0;
    for (const size_t i : order) {
      expect_rows(logits, row, alone_[i], 0, alone_[i].rows, fmt::format("sequence {}", i));
      row += alone_[i].rows;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, Decode,
                         testing::ValuesIn(folders_with("conformance", "golden.safetensors")),
                         [](const auto& info) { return info.param; });

class CapacityGates : public testing::TestWithParam<std::string> {};

TEST_P(CapacityGates, a_plan_drops_what_the_evaluator_drops_in_any_batch) {
  CompileOptions options = small_cpu_options(kData / "deepspeed" / GetParam());
  options.max_model_len = 16;
  CpuModel model(options);
  const auto reference = make_reference_runner(options, false, 64);
  const int64_t vocab = reference->vocab_size();
  const std::vector<int32_t> ids = some_ids(16, vocab);
  const std::vector<std::span<const int32_t>> batch = {
      {ids.data(), 16}, {ids.data() + 2, 5}, {ids.data() + 9, 1}};
  const auto run = [&](StepRunner& runner) {
    return SequenceFeeder(runner, 3, 16).append_batch(batch, false).logits;
  };
  const Matrix got = run(model.runner());
  expect_rows(got, 0, run(*reference), 0, got.rows, "batch");
  // A decode step is a batch of its own, whose capacity follows from its few tokens.
  SequenceFeeder plan(model.runner(), 2, 16), evaluator(*reference, 2, 16);
  for (size_t t = 0; t < 16; ++t) {
    const std::vector<int32_t> tokens = {ids[t], ids[15 - t]};
    expect_rows(plan.decode(tokens, false).logits, 0, evaluator.decode(tokens, false).logits, 0, 2,
                fmt::format("token {}", t));
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, CapacityGates,
                         testing::ValuesIn(folders_with("deepspeed", "golden.safetensors")),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shunt
