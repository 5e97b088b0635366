// The engine over a hand-written model whose next token depends on all earlier ones: batches,
// chunks, preemption and sampling must give what each request gives alone.
#include "runtime/engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "ir/error.h"
#include "tests/runtime/plan/tiny_plan.h"

namespace shunt {
namespace {

using test::kVocab;

std::unique_ptr<Session> make_session(int64_t pages = 0, Plan plan = test::tiny_plan()) {
  SessionOptions options;
  options.threads = 1;
  options.kv_pages = pages;
  return std::make_unique<Session>(std::move(plan), "", options);
}

struct Result {
  std::vector<int32_t> ids;
  FinishReason reason = FinishReason::none;
  int ends = 0;
};

TokenCallback into(Result& result) {
  return [&result](const TokenEvent& e) {
    if (e.token >= 0) {
      EXPECT_EQ(e.index, static_cast<int64_t>(result.ids.size()));
      result.ids.push_back(e.token);
    }
    EXPECT_EQ(result.ends, 0) << "an event after the last";
    result.ends += e.finished;
    result.reason = e.reason;
  };
}

Result run_alone(const std::vector<int32_t>& prompt, const SamplingParams& params) {
  auto session = make_session();
  Engine engine(*session);
  Result result;
  engine.submit(prompt, params, into(result));
  engine.run_until_done();
  EXPECT_EQ(result.ends, 1);
  return result;
}

std::vector<int32_t> some_prompt(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(size);
  for (int32_t& id : ids) id = static_cast<int32_t>(1 + random() % (kVocab - 1));
  return ids;
}

SamplingParams greedy(int64_t max_tokens) {
  SamplingParams p;
  p.max_tokens = max_tokens;
  p.ignore_eos = true;
  return p;
}

SamplingParams sampled(int64_t max_tokens, uint64_t seed) {
  SamplingParams p = greedy(max_tokens);
  p.temperature = 1.5;
  p.seed = seed;
  return p;
}

TEST(Engine, GreedyFollowsTheLogits) {
  const std::vector<int32_t> prompt = some_prompt(5, 1);
  const Result result = run_alone(prompt, greedy(6));
  ASSERT_EQ(result.ids.size(), 6u);
  EXPECT_EQ(result.reason, FinishReason::length);
  std::vector<int32_t> all = prompt;
  all.insert(all.end(), result.ids.begin(), result.ids.end());
  auto session = make_session();
  Engine engine(*session);
  const std::vector<float> logits = engine.score(all);
  for (size_t i = 0; i < result.ids.size(); ++i) {
    const auto row = logits.begin() + static_cast<int64_t>(prompt.size() - 1 + i) * kVocab;
    EXPECT_EQ(std::max_element(row, row + kVocab) - row, result.ids[i]) << i;
  }
  EXPECT_EQ(engine.free_pages(), session->pages());
}

TEST(Engine, BatchGivesWhatEachGivesAlone) {
  auto session = make_session();
  Engine engine(*session);
  // More requests than max_num_seqs, prompts longer than a step, unequal lengths, greedy and
  // sampled.
  const std::vector<size_t> sizes = {1, 20, 3, 7, 13, 2, 25};
  std::vector<Result> results(sizes.size());
  std::vector<SamplingParams> params;
  for (size_t i = 0; i < sizes.size(); ++i) {
    params.push_back(i % 2 == 0 ? greedy(4 + static_cast<int64_t>(i)) : sampled(7, i));
    engine.submit(some_prompt(sizes[i], static_cast<uint32_t>(i)), params[i], into(results[i]));
  }
  EXPECT_EQ(engine.unfinished(), 7);
  engine.run_until_done();
  EXPECT_EQ(engine.unfinished(), 0);
  EXPECT_EQ(engine.free_pages(), session->pages());
  EXPECT_GT(engine.stats().decode_steps, 0);
  for (size_t i = 0; i < sizes.size(); ++i) {
    const Result alone = run_alone(some_prompt(sizes[i], static_cast<uint32_t>(i)), params[i]);
    EXPECT_EQ(results[i].ids, alone.ids) << i;
    EXPECT_EQ(results[i].ends, 1);
  }
}

TEST(Engine, PreemptionChangesNothing) {
  auto session = make_session(9);  // 36 rows for up to 4 x 24
  Engine engine(*session);
  std::vector<Result> results(5);
  for (size_t i = 0; i < results.size(); ++i) {
    engine.submit(some_prompt(8, static_cast<uint32_t>(40 + i)), sampled(16, i), into(results[i]));
  }
  engine.run_until_done();
  EXPECT_GT(engine.stats().preemptions, 0);
  EXPECT_EQ(engine.free_pages(), 9);
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].ids,
              run_alone(some_prompt(8, static_cast<uint32_t>(40 + i)), sampled(16, i)).ids)
        << i;
  }
}

TEST(Engine, FewerLogitRowsThanSequences) {
  Plan plan = test::tiny_plan();
  plan.limits.max_logit_rows = 2;
  auto session = make_session(0, plan);
  Engine engine(*session);
  std::vector<Result> results(4);
  for (size_t i = 0; i < results.size(); ++i) {
    engine.submit(some_prompt(3 + i, static_cast<uint32_t>(i)), greedy(5), into(results[i]));
  }
  engine.run_until_done();
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].ids,
              run_alone(some_prompt(3 + i, static_cast<uint32_t>(i)), greedy(5)).ids)
        << i;
  }
}

TEST(Engine, StopRules) {
  const std::vector<int32_t> prompt = some_prompt(4, 9);
  const Result free = run_alone(prompt, sampled(20, 5));
  ASSERT_EQ(free.ids.size(), 20u);
  SamplingParams p = sampled(20, 5);
  p.stop_ids = {free.ids[3]};
  const auto first = static_cast<size_t>(std::find(free.ids.begin(), free.ids.end(), free.ids[3]) -
                                         free.ids.begin());
  const Result stopped = run_alone(prompt, p);
  EXPECT_EQ(stopped.ids, std::vector<int32_t>(free.ids.begin(),
                                              free.ids.begin() + static_cast<int64_t>(first) + 1));
  EXPECT_EQ(stopped.reason, FinishReason::stop);

  Plan plan = test::tiny_plan();
  plan.model.eos_ids = {free.ids[3]};
  auto session = make_session(0, plan);
  Engine engine(*session);
  Result by_eos, ignoring;
  p = sampled(20, 5);
  engine.submit(prompt, p, into(ignoring));
  p.ignore_eos = false;
  engine.submit(prompt, p, into(by_eos));
  engine.run_until_done();
  EXPECT_EQ(by_eos.ids, stopped.ids);
  EXPECT_EQ(by_eos.reason, FinishReason::stop);
  EXPECT_EQ(ignoring.ids, free.ids);
}

TEST(Engine, MaxModelLenEndsARequest) {
  const Result result = run_alone(some_prompt(30, 2), greedy(100));
  EXPECT_EQ(result.ids.size(), 2u);
  EXPECT_EQ(result.reason, FinishReason::length);
  EXPECT_EQ(run_alone(some_prompt(30, 2), greedy(0)).ids, result.ids);
}

TEST(Engine, Cancel) {
  auto session = make_session();
  Engine engine(*session);
  Result running, waiting, from_callback;
  const int64_t a = engine.submit(some_prompt(3, 1), greedy(20), into(running));
  int64_t c = 0;
  const auto record = into(from_callback);
  c = engine.submit(some_prompt(3, 2), greedy(20), [&](const TokenEvent& e) {
    record(e);
    if (e.index == 2 && !e.finished) {
      EXPECT_TRUE(engine.cancel(c));
    }
  });
  engine.step();
  engine.step();
  const int64_t b = engine.submit(some_prompt(3, 3), greedy(20), into(waiting));
  EXPECT_TRUE(engine.cancel(a));
  EXPECT_TRUE(engine.cancel(b));
  EXPECT_FALSE(engine.cancel(a));
  EXPECT_FALSE(engine.cancel(12345));
  engine.run_until_done();
  EXPECT_EQ(running.reason, FinishReason::cancelled);
  EXPECT_EQ(running.ids.size(), 2u);
  EXPECT_EQ(waiting.reason, FinishReason::cancelled);
  EXPECT_TRUE(waiting.ids.empty());
  EXPECT_EQ(from_callback.ids.size(), 3u);
  EXPECT_EQ(from_callback.reason, FinishReason::cancelled);
  EXPECT_EQ(engine.free_pages(), session->pages());
}

TEST(Engine, SubmitFromACallback) {
  auto session = make_session();
  Engine engine(*session);
  Result first, second;
  const auto record = into(first);
  engine.submit(some_prompt(3, 1), greedy(2), [&](const TokenEvent& e) {
    record(e);
    if (e.finished) engine.submit(some_prompt(4, 2), greedy(3), into(second));
  });
  engine.run_until_done();
  EXPECT_EQ(second.ids, run_alone(some_prompt(4, 2), greedy(3)).ids);
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

TEST(Engine, RefusesWhatCannotRun) {
  auto session = make_session(4);
  Engine engine(*session);
  const auto submit = [&](std::vector<int32_t> prompt,
                          const std::function<void(SamplingParams&)>& edit) {
    return user_error_of([&] {
      SamplingParams p = greedy(2);
      edit(p);
      engine.submit(std::move(prompt), p, nullptr);
    });
  };
  const auto same = [](SamplingParams&) {};
  EXPECT_NE(submit({}, same).find("prompt is empty"), std::string::npos);
  EXPECT_NE(submit(some_prompt(33, 1), same).find("33 tokens and this plan takes at most 32"),
            std::string::npos);
  EXPECT_NE(submit(some_prompt(32, 1), same).find("leaves no room to generate"), std::string::npos);
  EXPECT_NE(submit({1, 16}, same).find("token 1 of the prompt is id 16"), std::string::npos);
  EXPECT_NE(submit({-1}, same).find("id -1"), std::string::npos);
  EXPECT_NE(submit(some_prompt(16, 1), same).find("needs 5 pages of KV cache and there are 4"),
            std::string::npos);
  EXPECT_NE(submit({1}, [](auto& p) { p.temperature = -1; }).find("temperature -1"),
            std::string::npos);
  EXPECT_NE(submit({1}, [](auto& p) { p.temperature = std::nan(""); }).find("temperature"),
            std::string::npos);
  EXPECT_NE(submit({1}, [](auto& p) { p.top_k = -1; }).find("top-k -1"), std::string::npos);
  EXPECT_NE(submit({1}, [](auto& p) { p.top_p = 0; }).find("top-p 0"), std::string::npos);
  EXPECT_NE(submit({1}, [](auto& p) { p.max_tokens = -1; }).find("max_tokens -1"),
            std::string::npos);
  EXPECT_NE(submit({1}, [](auto& p) { p.stop_ids = {99}; }).find("stop id 99"), std::string::npos);
  EXPECT_NE(user_error_of([&] { engine.score(some_prompt(17, 1)); }).find("needs 5 pages"),
            std::string::npos);
  EXPECT_EQ(engine.unfinished(), 0);
  EXPECT_FALSE(engine.step());
  EXPECT_EQ(submit(some_prompt(15, 1), same), "(no error)");  // exactly fills the pages
  engine.run_until_done();
}

TEST(Engine, ScoreInChunksMatchesOneRow) {
  auto session = make_session();
  Engine engine(*session);
  const std::vector<int32_t> ids = some_prompt(30, 3);
  std::vector<int64_t> begins;
  engine.score(ids, [&](int64_t row, std::span<const float> logits) {
    begins.push_back(row);
    EXPECT_EQ(logits.size() % kVocab, 0u);
  });
  EXPECT_EQ(begins, (std::vector<int64_t>{0, 4, 8, 12, 16, 20, 24, 28}));
  const std::vector<float> all = engine.score(ids);
  for (const size_t n : {1u, 6u, 30u}) {
    const std::vector<float> part = engine.score({ids.data(), n});
    for (size_t i = 0; i < kVocab; ++i)
      EXPECT_NEAR(part[(n - 1) * kVocab + i], all[(n - 1) * kVocab + i], 1e-5);
  }
}

TEST(Engine, ScoreForcesRoutingByRow) {
  test::TinyPlan tiny;
  Plan& plan = tiny.plan;
  plan.buffers.push_back({"forced.0",
                          Arena::io,
                          plan.io_bytes,
                          test::kTinyTokens * 8,
                          {DType::i32, {tiny.T, Dim(2)}}});
  plan.io_bytes += 256;
  plan.ports.push_back({"forced.0", static_cast<int>(plan.buffers.size()) - 1, false});
  struct Watch : StepObserver {
    std::vector<int32_t> seen;
    void after_step(Session& session, const StepInfo& info) override {
      if (info.index > 0) return;
      const auto port = session.input_as<int32_t>("forced.0");
      seen.insert(seen.end(), port.begin(), port.begin() + info.T * 2);
    }
  } watch;
  auto session = make_session(0, plan);
  Engine engine(*session);
  ScoreOptions options;
  options.observer = &watch;
  for (int32_t i = 0; i < 20; ++i) options.forced["forced.0"].push_back(i);
  engine.score(
      some_prompt(10, 1), [](int64_t, std::span<const float>) {}, options);
  EXPECT_EQ(watch.seen, options.forced["forced.0"]);
  EXPECT_EQ(session->input_as<int32_t>("forced.0")[0], -1);
}

TEST(Engine, UniformIsACounter) {
  EXPECT_EQ(uniform_at(1, 2), uniform_at(1, 2));
  std::set<float> seen;
  double sum = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (uint64_t position = 0; position < 100; ++position) {
      const float u = uniform_at(seed, position);
      ASSERT_TRUE(u >= 0 && u < 1);
      seen.insert(u);
      sum += static_cast<double>(u);
    }
  }
  EXPECT_GT(seen.size(), 9980u);
  EXPECT_NEAR(sum / 10000, 0.5, 0.01);
}

}  // namespace
}  // namespace shunt
