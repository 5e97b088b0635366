// Sessions of a hand-written cpu plan: against plain loops, in chunks and at once, two at a time,
// and every refusal.
#include "runtime/session.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>

#include "ir/error.h"
#include "tests/runtime/plan/tiny_plan.h"

namespace shunt {
namespace {

using test::kHidden;
using test::kVocab;

SessionOptions one_thread() {
  SessionOptions options;
  options.threads = 1;
  return options;
}

/// Runs tokens [from, ids.size()) of one sequence whose earlier ones are computed; logits of the
/// last row.
std::vector<float> run_sequence(Session& session, const std::vector<int32_t>& ids, size_t from,
                                int32_t first_page, bool decode = false,
                                StepObserver* observer = nullptr) {
  const auto T = static_cast<int64_t>(ids.size() - from);
  for (int64_t t = 0; t < T; ++t) {
    session.input_as<int32_t>("tokens")[t] = ids[from + static_cast<size_t>(t)];
    session.input_as<int32_t>("positions")[t] =
        static_cast<int32_t>(from) + static_cast<int32_t>(t);
  }
  session.input_as<int32_t>("seq_starts")[0] = 0;
  session.input_as<int32_t>("seq_starts")[1] = static_cast<int32_t>(T);
  session.input_as<int32_t>("kv_lens")[0] = static_cast<int32_t>(ids.size());
  auto tables = session.input_as<int32_t>("block_tables");
  for (int32_t i = 0; i < 8; ++i) tables[i] = first_page + i;
  session.input_as<int32_t>("logit_rows")[0] = static_cast<int32_t>(T) - 1;
  session.run_step(decode, T, 1, 1, observer);
  const auto logits = session.output_as<float>("logits", kVocab);
  return {logits.begin(), logits.end()};
}

/// The tiny model in plain loops.
std::vector<float> expected_logits(const Plan& plan, const std::vector<int32_t>& ids) {
  const auto& table = std::get<Constant>(plan.programs[0].steps[0].what).values;
  const auto& head = std::get<Constant>(plan.programs[0].steps[1].what).values;
  const float* q = &table[static_cast<size_t>(ids.back() * kHidden)];
  std::vector<double> p;
  for (const int32_t id : ids) {
    p.push_back(std::exp(
        std::inner_product(q, q + kHidden, &table[static_cast<size_t>(id * kHidden)], 0.0)));
  }
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  std::vector<double> a(kHidden, 0);
  for (size_t t = 0; t < ids.size(); ++t) {
    for (int64_t i = 0; i < kHidden; ++i) {
      a[static_cast<size_t>(i)] += p[t] / sum * table[static_cast<size_t>(ids[t] * kHidden + i)];
    }
  }
  std::vector<float> logits;
  for (int64_t v = 0; v < kVocab; ++v) {
    logits.push_back(static_cast<float>(
        std::inner_product(a.begin(), a.end(), &head[static_cast<size_t>(v * kHidden)], 0.0)));
  }
  return logits;
}

void expect_close(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-5) << i;
}

const std::vector<int32_t> kIds = {3, 1, 4, 1, 5, 9, 2, 6, 5};

TEST(Session, PrefillMatchesPlainLoops) {
  Session session(test::tiny_plan(), "", one_thread());
  EXPECT_TRUE(session.on_cpu());
  EXPECT_EQ(session.pages(), 32);  // 4 sequences of 32 tokens in pages of 4
  expect_close(run_sequence(session, kIds, 0, 0), expected_logits(session.plan(), kIds));
}

TEST(Session, ChunksAndDecodeContinueThePages) {
  Session session(test::tiny_plan(), "", {});
  std::vector<int32_t> ids(kIds.begin(), kIds.begin() + 2);
  run_sequence(session, ids, 0, 7);
  ids.assign(kIds.begin(), kIds.begin() + 7);
  run_sequence(session, ids, 2, 7);
  for (size_t n = 8; n <= kIds.size(); ++n) {
    ids.assign(kIds.begin(), kIds.begin() + static_cast<int64_t>(n));
    expect_close(run_sequence(session, ids, n - 1, 7, true), expected_logits(session.plan(), ids));
  }
}

TEST(Session, PoisonedWorkspaceChangesNothing) {
  SessionOptions options = one_thread();
  options.poison = true;
  Session session(test::tiny_plan(), "", options);
  expect_close(run_sequence(session, kIds, 0, 0), expected_logits(session.plan(), kIds));
}

TEST(Session, TwoInOneProcess) {
  Session a(test::tiny_plan(), "", one_thread()), b(test::tiny_plan(), "", {});
  const std::vector<int32_t> other = {7, 7, 2};
  run_sequence(a, {3, 1, 4}, 0, 0);
  run_sequence(b, {7, 7}, 0, 0);
  expect_close(run_sequence(b, other, 2, 0), expected_logits(b.plan(), other));
  expect_close(run_sequence(a, kIds, 3, 0), expected_logits(a.plan(), kIds));
}

TEST(Session, ChoosesTheSmallestProgram) {
  Session session(test::tiny_plan(), "", one_thread());
  EXPECT_EQ(session.step_program(true, 1, 1, 1).name, "step.decode.1");
  EXPECT_EQ(session.step_program(true, 2, 2, 2).name, "step.decode.4");
  EXPECT_EQ(session.step_program(true, 4, 4, 4).name, "step.decode.4");
  EXPECT_EQ(session.step_program(false, 1, 1, 1).name, "step.prefill.12");
  EXPECT_THROW(session.step_program(false, 13, 1, 1), InternalError);
  Plan plan = test::tiny_plan();
  plan.programs.erase(plan.programs.begin() + 1, plan.programs.begin() + 3);
  Session no_decode(plan, "", one_thread());
  EXPECT_EQ(no_decode.step_program(true, 2, 2, 2).name, "step.prefill.12");
}

TEST(Session, SamplesGreedily) {
  Session session(test::tiny_plan(), "", one_thread());
  const std::vector<float> logits = run_sequence(session, kIds, 0, 0);
  session.input_as<float>("temperature")[0] = 0;
  session.input_as<float>("top_p")[0] = 1;
  session.input_as<int32_t>("top_k")[0] = 0;
  session.run_sample(1);
  EXPECT_EQ(session.output_as<int32_t>("ids", 1)[0],
            std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST(Session, ObserverSeesEveryStepAndItsBuffers) {
  struct Watch : StepObserver {
    std::vector<std::string> names;
    std::vector<float> hidden;
    void after_step(Session& session, const StepInfo& info) override {
      EXPECT_EQ(info.index, static_cast<int>(names.size()));
      EXPECT_EQ(info.T, 9);
      names.push_back(info.step->name);
      const int buffer = session.find_buffer(*info.program, "hidden.0");
      ASSERT_GE(buffer, 0);
      if (info.step->writes != std::vector<int>{buffer}) return;
      std::vector<std::byte> bytes;
      session.read_buffer(buffer, bytes);
      hidden.resize(bytes.size() / 4);
      memcpy(hidden.data(), bytes.data(), bytes.size());
    }
  } watch;
  Session session(test::tiny_plan(), "", one_thread());
  const auto logits = run_sequence(session, kIds, 0, 0, false, &watch);
  expect_close(logits, expected_logits(session.plan(), kIds));
  EXPECT_EQ(watch.names, (std::vector<std::string>{"embedding", "kv_append", "attention",
                                                   "gather_rows", "linear"}));
  ASSERT_EQ(watch.hidden.size(), kIds.size() * kHidden);  // at the run's sizes, not the buffer's
  const auto& table = std::get<Constant>(session.plan().programs[0].steps[0].what).values;
  EXPECT_EQ(watch.hidden[kHidden], table[1 * kHidden]);
  EXPECT_EQ(session.find_buffer(session.plan().programs[1], "no such value"), -1);
}

TEST(Session, TimesEveryStep) {
  Session session(test::tiny_plan(), "", one_thread());
  run_sequence(session, kIds, 0, 0);
  const std::vector<StepTime> times = session.run_step_timed(false, 9, 1, 1);
  ASSERT_EQ(times.size(), 5u);
  EXPECT_EQ(times[2].name, "attention");
  EXPECT_EQ(times[2].bytes, 9 * kHidden * 8);
  for (const StepTime& t : times) EXPECT_GT(t.seconds, 0);
}

TEST(Session, CopiesFillsAndForcedRouting) {
  test::TinyPlan tiny;
  Plan& plan = tiny.plan;
  // logits[0] = hidden.0 of the last row, after a detour; forced.0 exists and is not read.
  plan.buffers.push_back({"forced.0",
                          Arena::io,
                          plan.io_bytes,
                          test::kTinyTokens * 8,
                          {DType::i32, {tiny.T, Dim(2)}}});
  plan.io_bytes += 256;
  plan.ports.push_back({"forced.0", static_cast<int>(plan.buffers.size()) - 1, false});
  Program& p = plan.programs[3];
  Step s;
  s.what = Fill{test::TinyPlan::buffer(tiny.a), DimExpr(Dim::symbol("T") * Dim(kHidden * 4)), 0xff};
  p.steps.push_back(s);
  s.what =
      Copy{test::TinyPlan::buffer(tiny.h), test::TinyPlan::buffer(tiny.a), DimExpr(kHidden * 4)};
  p.steps.push_back(s);
  s.what = Copy{test::TinyPlan::buffer(tiny.a), tiny.port("logits"), DimExpr(kHidden * 8)};
  p.steps.push_back(s);
  validate(plan);
  Session session(plan, "", one_thread());
  const auto logits = run_sequence(session, {2, 3}, 0, 0);
  const auto& table = std::get<Constant>(plan.programs[0].steps[0].what).values;
  for (int64_t i = 0; i < kHidden; ++i) {
    EXPECT_EQ(logits[static_cast<size_t>(i)], table[static_cast<size_t>(2 * kHidden + i)]);
    EXPECT_TRUE(std::isnan(logits[static_cast<size_t>(kHidden + i)]));
  }
  for (const int32_t id : session.input_as<int32_t>("forced.0").subspan(0, 24)) EXPECT_EQ(id, -1);
}

TEST(Session, PagesFollowMemory) {
  SessionOptions options = one_thread();
  options.kv_pages = 5;
  EXPECT_EQ(Session(test::tiny_plan(), "", options).pages(), 5);
  options.kv_pages = 0;
  options.cpu_kv_bytes = 0;
  Session small(test::tiny_plan(), "", options);
  EXPECT_EQ(small.pages(), 8);  // one full sequence always fits
  // Two states of 8 pages and the spare one: 9 * 4 * 8 floats, in multiples of 256 bytes.
  EXPECT_EQ(small.memory().state, 2 * 1280);
  EXPECT_EQ(small.memory().weights, 1024);
}

TEST(Session, SlotStatesAreOneRowASequence) {
  test::TinyPlan tiny;
  Plan& plan = tiny.plan;
  plan.states.push_back({"l0.conv", {DType::f32, {Dim(3), Dim(kHidden)}}, StateKind::slot});
  plan.buffers.push_back({"state_slots", Arena::io, plan.io_bytes, 16, {DType::i32, {tiny.S}}});
  plan.io_bytes += 256;
  plan.ports.push_back({"state_slots", static_cast<int>(plan.buffers.size()) - 1, false});
  validate(plan);
  EXPECT_EQ(plan.page_bytes(), 2 * 4 * 8 * 4);
  EXPECT_EQ(plan.slot_bytes(), 3 * 8 * 4);
  SessionOptions options = one_thread();
  options.kv_pages = 8;
  Session session(plan, "", options);
  EXPECT_EQ(session.slots(), test::kTinySeqs);
  EXPECT_EQ(session.memory().state, 2 * 1280);
  EXPECT_EQ(session.memory().slots, 512);  // 5 rows of 96 bytes
  EXPECT_EQ(memory_needed(plan, 8).total(), session.memory().total());
}

template <class F>
std::string user_error_of(F&& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "(no error)";
}

TEST(Session, Refusals) {
  SessionOptions options;
  Plan two = test::tiny_plan();
  two.mesh.tp = two.mesh.etp = 2;
  EXPECT_NE(user_error_of([&] { Session(two, "", options); }).find("for 2 ranks"),
            std::string::npos);
  options.kv_pages = -1;
  EXPECT_NE(user_error_of([&] { Session(test::tiny_plan(), "", options); }).find("--kv-pages -1"),
            std::string::npos);
  for (const int64_t many : {int64_t{1} << 40, INT64_MAX}) {
    options.kv_pages = many;
    EXPECT_NE(user_error_of([&] { Session(test::tiny_plan(), "", options); }).find("too large"),
              std::string::npos);
  }
  Session session(test::tiny_plan(), "", one_thread());
  EXPECT_THROW(session.input("no such port"), InternalError);
  EXPECT_THROW(session.output("logits", 1 << 20), InternalError);
  EXPECT_THROW(session.run_step(true, 2, 1, 1), InternalError);
  EXPECT_TRUE(session.alive());
}

TEST(Session, GpuPlanWithoutGpu) {
  if (std::getenv("SHUNT_TEST_HAS_GPU") != nullptr) GTEST_SKIP();
  Plan plan = test::tiny_plan();
  plan.target = "sm_90a";
  plan.kernels.clear();
  for (Program& p : plan.programs) p.steps.clear();
  validate(plan);
  std::string error;
  try {
    Session session(plan, "", {});
    GTEST_SKIP() << "this machine has a GPU";
  } catch (const UserError& e) {
    EXPECT_EQ(e.kind(), UserError::Kind::incompatible_plan);
    error = e.what();
  }
  EXPECT_NE(error.find("--target cpu"), std::string::npos) << error;
}

/// 40 host calls over one token: the session's own share of a decode step.
TEST(Session, OverheadOfAStepIsSmall) {
  test::TinyPlan tiny;
  Program& decode = tiny.plan.programs[1];
  const Step gather = decode.steps[3];
  for (int i = 0; i < 35; ++i) decode.steps.push_back(gather);
  Session session(tiny.plan, "", one_thread());
  run_sequence(session, {1}, 0, 0, true);
  double best = 1;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 100; ++i) session.run_step(true, 1, 1, 1);
    best = std::min(
        best,
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 100);
  }
  RecordProperty("microseconds", std::to_string(best * 1e6));
  std::printf("a step of 40 calls: %.2f us\n", best * 1e6);
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(best, 100e-6);  // 20 us on an idle machine; CI machines are shared
#endif
}

}  // namespace
}  // namespace shunt
