// Sums over peer memory on 2 to 8 GPUs, a thread each: chains of them, captured into a graph and
// replayed, at sizes that change from step to step. All numbers are small whole ones, so that every
// result is exact; a rank's copy of each is gathered and compared, too. Needs two GPUs.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <random>
#include <thread>

#include "ir/error.h"
#include "runtime/device.h"
#include "runtime/ranks.h"
#include "tests/kernels/op_runner.h"

namespace shunt::test {
namespace {

constexpr int64_t kColumns = 2056, kOdd = 33;

std::string target() { return device_info(0).sm == 90 ? "sm_90a" : "sm_80"; }

/// `parts` columns of %name split among the ranks, summed, then divided and summed again and again.
std::string chain(const std::string& name, const std::string& dtype, int64_t columns, int ranks) {
  std::string runs;
  for (int r = 0; r < ranks; ++r)
    runs += fmt::format("{}[{}, {}]", r == 0 ? "" : ", ", r * columns, (r + 1) * columns);
  const std::string type = fmt::format("{}[T, {}]", dtype, columns);
  std::string text =
      fmt::format("  %{0}0 = shard %{0} {{axis = 1, over = tp, size = {1}, runs = [{2}]}} : {3}\n",
                  name, columns, runs, type);
  constexpr int kSums = 8;
  for (int i = 0; i < kSums; ++i) {
    text += fmt::format("  %{0}s{1} = all_reduce %{0}{1} {{over = tp, ranks = {2}}} : {3}\n", name,
                        i, ranks, type);
    text += fmt::format("  %{0}{1} = pointwise %{0}s{2} {{expr = \"x0 * {3}\", out = {5}}} : {4}\n",
                        name, i + 1, i, 1.0 / ranks, type, dtype);
  }
  text += fmt::format(
      "  %{0}_sum = all_gather %{0}s{1} {{over = tp, ranks = {2}}} : {3}[{2}*T, "
      "{4}]\n",
      name, kSums - 1, ranks, dtype, columns);
  return text;
}

std::string module_text(int ranks) {
  const std::string inputs =
      fmt::format("%h : bf16[T, {}], %f : f32[T, {}]", ranks * kColumns, ranks * kOdd);
  const std::string body = chain("h", "bf16", kColumns, ranks) + chain("f", "f32", kOdd, ranks) +
                           "  return %h_sum, %f_sum\n}\n";
  return fmt::format(
      "module @t stage(placed)\nmesh dp 1 tp {0} ep 1 etp {0}\n"
      "dim R in [0, 8]\ndim S in [0, 8]\ndim T in [0, 64]\n"
      "graph @step.decode.8({1}) dims(T in [0, 8]) {{\n{2}graph @step.prefill.64({1}) {{\n{2}",
      ranks, inputs, body);
}

Plan peer_plan(int ranks, const std::string& row) {
  const auto module = ir::parse(module_text(ranks));
  ir::verify(*module);
  codegen::LowerOptions options{find_target(target()), {64, 8, 64, 8, 64}, {}, row};
  options.peer_memory = true;
  LoweredCase c{row, codegen::lower(*module, options)};
  compile_kernels({&c}, target());
  Plan plan = std::move(c.lowered.plan);
  plan.activation_dtype = "bf16";
  plan.model.vocab_size = 1;
  validate(plan);
  return plan;
}

float number(std::span<const std::byte> bytes, DType dtype, int64_t i) {
  if (dtype == DType::f32) return reinterpret_cast<const float*>(bytes.data())[i];
  const uint32_t bits = uint32_t{reinterpret_cast<const uint16_t*>(bytes.data())[i]} << 16;
  return std::bit_cast<float>(bits);
}

/// One input and its gathered output.
class Checked {
 public:
  Checked(Session& session, const char* name, DType dtype, int64_t columns, int ranks)
      : session_(session), name_(name), dtype_(dtype), columns_(columns), ranks_(ranks) {}

  void fill(int64_t T, std::minstd_rand& random) {
    values_.assign(static_cast<size_t>(T * ranks_ * columns_), 0);
    const auto port = session_.input(name_);
    for (size_t i = 0; i < values_.size(); ++i) {
      values_[i] = static_cast<float>(static_cast<int>(random() % 17) - 8);
      if (dtype_ == DType::f32) {
        reinterpret_cast<float*>(port.data())[i] = values_[i];
      } else {
        reinterpret_cast<uint16_t*>(port.data())[i] = bf16_from_f32(values_[i]);
      }
    }
  }

  /// How many elements are wrong. In a graph parts are of the bucket's T.
  int64_t wrong(int64_t T, int64_t bucket) {
    const auto bytes = session_.output(std::string(name_) + "_sum");
    int64_t wrong = 0;
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t c = 0; c < columns_; ++c) {
        float expected = 0;
        for (int r = 0; r < ranks_; ++r)
          expected += values_[static_cast<size_t>((t * ranks_ + r) * columns_ + c)];
        for (int r = 0; r < ranks_; ++r)
          wrong += number(bytes, dtype_, (r * bucket + t) * columns_ + c) != expected;
      }
    }
    return wrong;
  }

 private:
  Session& session_;
  const char* name_;
  DType dtype_;
  int64_t columns_;
  int ranks_;
  std::vector<float> values_;
};

void run(int ranks, const std::string& row) {
  const Plan plan = peer_plan(ranks, row);
  ASSERT_GT(plan.peer_bytes, 0);
  Ranks all(plan, scratch_plan(), {});
  Session& session = all.session();
  Checked h(session, "h", DType::bf16, kColumns, ranks), f(session, "f", DType::f32, kOdd, ranks);
  std::minstd_rand random(3);
  for (int step = 0; step < 400; ++step) {
    const bool decode = random() % 4 != 0;
    const int64_t T = 1 + random() % (decode ? 8 : 64);
    const int64_t S = decode ? T : 1;
    h.fill(T, random);
    f.fill(T, random);
    if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    session.run_step(decode, T, S, 1);
    // The first use of a program is no graph, but has its sizes.
    const int64_t bucket = decode ? 8 : T;
    ASSERT_EQ(h.wrong(T, bucket), 0) << step << ": " << T << (decode ? " decode" : " prefill");
    ASSERT_EQ(f.wrong(T, bucket), 0) << step << ": " << T << (decode ? " decode" : " prefill");
  }
  all.finish();
}

TEST(PeerSumOnGpus, ExactOverAndOver) {
  if (!devices_reach_each_other(2)) GTEST_SKIP() << "needs two GPUs that reach each other";
  for (const int ranks : {2, 4, 8}) {
    if (device_count() < ranks) break;
    for (const char* row : {"all_reduce.peer", "all_reduce.peer_sliced"}) {
      SCOPED_TRACE(fmt::format("{} on {} ranks", row, ranks));
      run(ranks, row);
    }
  }
}

}  // namespace
}  // namespace shunt::test
