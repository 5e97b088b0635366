// Ranks as threads: what collectives compute, that sums do not depend on timing, and that no
// failure hangs.
#include "runtime/comm/in_process.h"

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <numeric>
#include <thread>

#include "ir/error.h"

namespace shunt {
namespace {

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

using Body = std::function<void(CommWorld& world, Communicator& all)>;

std::vector<int> ids(int n) {
  std::vector<int> v(static_cast<size_t>(n));
  std::iota(v.begin(), v.end(), 0);
  return v;
}

/// Runs `body` on n threads; returns each rank's error text, "" for none.
std::vector<std::string> run(int n, const Body& body, Milliseconds timeout = Milliseconds(20000)) {
  InProcessWorld ranks(n, timeout);
  std::vector<std::string> errors(static_cast<size_t>(n));
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r)
    threads.emplace_back([&, r] {
      try {
        const auto world = ranks.join(r);
        const auto all = world->group({"tp", ids(n)});
        body(*world, *all);
        world->control().close();
      } catch (const Error& e) {
        errors[static_cast<size_t>(r)] = e.what();
      }
    });
  for (std::thread& t : threads) t.join();
  return errors;
}

void expect_fine(const std::vector<std::string>& errors) {
  for (const std::string& e : errors) EXPECT_EQ(e, "");
}

float noise(int64_t i) {
  return static_cast<float>(static_cast<double>((i * 2654435761) % 1000003) / 1000.0 - 500.0);
}

TEST(InProcess, AllReduceAddsInRankOrder) {
  const int64_t n = 5003;
  for (const int ranks : {1, 2, 3, 4}) {
    std::vector<float> expected(n);
    for (int64_t i = 0; i < n; ++i) {
      float sum = noise(i);
      for (int r = 1; r < ranks; ++r) sum += noise(i + r * n);
      expected[static_cast<size_t>(i)] = sum;
    }
    expect_fine(run(ranks, [&](CommWorld& world, Communicator& all) {
      for (int64_t step = 0; step < 20; ++step) {
        std::vector<float> data(n);
        for (int64_t i = 0; i < n; ++i) data[static_cast<size_t>(i)] = noise(i + world.rank() * n);
        all.all_reduce(data.data(), n, DType::f32, {step, 0, "x"}, nullptr);
        ASSERT_EQ(data, expected);  // the same bits
      }
    }));
  }
}

TEST(InProcess, NarrowTypesAreRoundedOnce) {
  // 1 + 2^-9 + 2^-9: rounding after each sum would lose both halves of the last bit of bf16.
  expect_fine(run(3, [](CommWorld& world, Communicator& all) {
    std::vector<uint16_t> b(7, bf16_from_f32(world.rank() == 0 ? 1.0f : 0.00390625f));
    all.all_reduce(b.data(), 7, DType::bf16, {0, 0, "b"}, nullptr);
    for (const uint16_t x : b) EXPECT_EQ(f32_from_bf16(x), 1.0078125f);
    std::vector<uint16_t> h(7, f16_from_f32(world.rank() == 0 ? 1.0f : 0.00048828125f));
    all.all_reduce(h.data(), 7, DType::f16, {0, 1, "h"}, nullptr);
    for (const uint16_t x : h) EXPECT_EQ(f32_from_f16(x), 1.0009765625f);
    std::vector<int32_t> i{world.rank(), 2147483647};
    all.all_reduce(i.data(), 2, DType::i32, {0, 2, "i"}, nullptr);
    EXPECT_EQ(i, (std::vector<int32_t>{3, 2147483645}));
  }));
}

TEST(InProcess, GatherScatterAndExchange) {
  expect_fine(run(3, [](CommWorld& world, Communicator& all) {
    const int r = world.rank();
    std::vector<int32_t> gathered(6, -1);
    gathered[static_cast<size_t>(2 * r)] = 10 * r;
    gathered[static_cast<size_t>(2 * r + 1)] = 10 * r + 1;
    all.all_gather(&gathered[static_cast<size_t>(2 * r)], gathered.data(), 2, DType::i32,
                   {0, 0, "g"}, nullptr);
    EXPECT_EQ(gathered, (std::vector<int32_t>{0, 1, 10, 11, 20, 21}));

    std::vector<float> parts(6);
    for (size_t i = 0; i < 6; ++i) parts[i] = static_cast<float>(i + 100 * static_cast<size_t>(r));
    float* mine = &parts[static_cast<size_t>(2 * r)];  // in place
    all.reduce_scatter(parts.data(), mine, 2, DType::f32, {0, 1, "s"}, nullptr);
    EXPECT_EQ(mine[0], static_cast<float>(300 + 3 * 2 * r));
    EXPECT_EQ(mine[1], static_cast<float>(300 + 3 * (2 * r + 1)));

    const std::vector<int32_t> send{100 * r, 100 * r + 1, 100 * r + 2};
    std::vector<int32_t> recv(3, -1);
    all.all_to_all(send.data(), recv.data(), 1, DType::i32, {0, 2, "a"}, nullptr);
    EXPECT_EQ(recv, (std::vector<int32_t>{r, 100 + r, 200 + r}));

    std::vector<int32_t> value{r, r + 1};
    all.broadcast(value.data(), 2, DType::i32, 2, {0, 3, "b"}, nullptr);
    EXPECT_EQ(value, (std::vector<int32_t>{2, 3}));
    all.barrier({0, 4, "end"}, nullptr);
  }));
}

TEST(InProcess, UnevenExchangeMovesOnlyTheRowsThatCount) {
  // Rank r sends (r + to) % 3 rows of two elements to each; slots have room for 2.
  expect_fine(run(3, [](CommWorld& world, Communicator& all) {
    const int r = world.rank();
    std::vector<int32_t> send(12, -7), recv(12, -1), counts(3), got(3, -1);
    for (int to = 0; to < 3; ++to) {
      counts[static_cast<size_t>(to)] = (r + to) % 3;
      for (int i = 0; i < 2 * ((r + to) % 3); ++i)
        send[static_cast<size_t>(4 * to + i)] = 100 * r + 10 * to + i;
    }
    all.all_to_all_v(send.data(), counts.data(), recv.data(), got.data(), 2, 2, DType::i32,
                     {0, 0, "v"}, nullptr);
    for (int from = 0; from < 3; ++from) {
      EXPECT_EQ(got[static_cast<size_t>(from)], (r + from) % 3);
      for (int i = 0; i < 4; ++i)
        EXPECT_EQ(recv[static_cast<size_t>(4 * from + i)],
                  i < 2 * ((r + from) % 3) ? 100 * from + 10 * r + i : -1);
    }
  }));
}

TEST(InProcess, GroupsOfTwoAxes) {
  // dp 2 x tp 2: ranks 0 1 | 2 3 by row, 0 2 | 1 3 by column.
  expect_fine(run(4, [](CommWorld& world, Communicator&) {
    const int r = world.rank();
    const auto tp = world.group({"tp", r < 2 ? std::vector<int>{0, 1} : std::vector<int>{2, 3}});
    const auto dp =
        world.group({"dp", r % 2 == 0 ? std::vector<int>{0, 2} : std::vector<int>{1, 3}});
    EXPECT_EQ(tp->rank(), r % 2);
    EXPECT_EQ(dp->rank(), r / 2);
    for (int64_t step = 0; step < 50; ++step) {
      int32_t a = r, b = r;
      tp->all_reduce(&a, 1, DType::i32, {step, 0, "a"}, nullptr);
      dp->all_reduce(&b, 1, DType::i32, {step, 1, "b"}, nullptr);
      EXPECT_EQ(a, r < 2 ? 1 : 5);
      EXPECT_EQ(b, r % 2 == 0 ? 2 : 4);
    }
  }));
}

TEST(InProcess, StepsGoFromRankZeroToTheOthers) {
  expect_fine(run(3, [](CommWorld& world, Communicator&) {
    ControlChannel& control = world.control();
    EXPECT_EQ(control.broadcast(fmt::format("from {}", control.rank())), "from 0");
    EXPECT_EQ(control.gather("names", fmt::format("rank {}", control.rank())),
              (std::vector<std::string>{"rank 0", "rank 1", "rank 2"}));
    std::vector<std::byte> payload(5, std::byte{9});
    if (control.rank() == 0) {
      for (int i = 0; i < 3; ++i) control.send_step({.program = i, .flags = 10 + i}, payload);
    } else {
      for (int i = 0; i < 3; ++i) {
        std::vector<std::byte> got;
        const auto step = control.receive_step(got, Milliseconds(20000));
        ASSERT_TRUE(step.has_value());
        EXPECT_EQ(*step, (StepDescriptor{.sequence = i, .program = i, .flags = 10 + i}));
        EXPECT_EQ(got, payload);
      }
      std::vector<std::byte> none;
      EXPECT_FALSE(control.receive_step(none, Milliseconds(1)).has_value());
    }
    control.barrier("all received");
  }));
}

TEST(InProcess, MissingRankIsNamed) {
  const auto start = CommClock::now();
  std::promise<void> over;
  const auto done = over.get_future().share();
  std::atomic<int> failed = 0;
  const auto errors = run(
      3,
      [&](CommWorld& world, Communicator& all) {
        int32_t x = 0;
        all.all_reduce(&x, 1, DType::i32, {16, 3, "first"}, nullptr);
        if (world.rank() == 2) {
          done.wait_for(std::chrono::seconds(20));
          world.control().check();
        }
        try {
          all.all_reduce(&x, 1, DType::i32, {17, 57, "model.layers.3.mlp"}, nullptr);
        } catch (const DeviceError&) {
          if (++failed == 2) over.set_value();
          throw;
        }
      },
      Milliseconds(250));
  for (const std::string& e : errors) {
    EXPECT_EQ(e,
              "rank 2 did not arrive at step 17, all_reduce model.layers.3.mlp within 0.25 s (rank "
              "2 at step 16, op 3)");
  }
  EXPECT_LT(CommClock::now() - start, std::chrono::seconds(10));
}

TEST(InProcess, FailureOfOneEndsAll) {
  const auto errors = run(4, [](CommWorld& world, Communicator& all) {
    int32_t x = 0;
    if (world.rank() == 1) all.abort("the disk is gone");
    for (int64_t step = 0;; ++step) all.all_reduce(&x, 1, DType::i32, {step, 0, "x"}, nullptr);
  });
  for (const std::string& e : errors) EXPECT_EQ(e, "rank 1 failed: the disk is gone");
}

TEST(InProcess, ThrowingRankEndsTheOthers) {
  const auto errors = run(3, [](CommWorld& world, Communicator& all) {
    int32_t x = 0;
    for (int64_t step = 0;; ++step) {
      all.all_reduce(&x, 1, DType::i32, {step, 4, "x"}, nullptr);
      if (world.rank() == 2 && step == 5) user_error("bad request");
    }
  });
  EXPECT_EQ(errors[2], "bad request");
  EXPECT_EQ(errors[0], "rank 2 left at step 5, op 4 without closing");
  EXPECT_EQ(errors[1], errors[0]);
}

TEST(InProcess, DifferentCollectivesArePrinted) {
  const auto errors = run(2, [](CommWorld& world, Communicator& all) {
    float x[4] = {};
    all.all_reduce(x, world.rank() == 0 ? 4 : 3, DType::f32, {2, 0, "model.norm"}, nullptr);
  });
  for (const std::string& e : errors) {
    EXPECT_HAS(e, "rank 0 is at step 2, all_reduce model.norm of 4 f32");
    EXPECT_HAS(e, "rank 1 at step 2, all_reduce model.norm of 3 f32");
  }
}

TEST(InProcess, FailureRunsCallbacksAndIsFinal) {
  std::atomic<int> calls = 0;
  const auto errors = run(3, [&](CommWorld& world, Communicator& all) {
    world.control().set_on_failure([&] { ++calls; });
    all.barrier({}, nullptr);
    if (world.rank() == 0) world.abort("enough");
    try {
      all.barrier({}, nullptr);
    } catch (const DeviceError&) {
    }
    EXPECT_FALSE(world.control().alive());
    EXPECT_THROW(all.barrier({}, nullptr), DeviceError);
    EXPECT_THROW(world.wait(nullptr, {}), DeviceError);
    while (calls < 3) std::this_thread::yield();
    world.control().set_on_failure({});
    world.control().check();
  });
  EXPECT_EQ(calls, 3);
  for (const std::string& e : errors) EXPECT_EQ(e, "rank 0 failed: enough");
}

TEST(InProcess, FailureWhileOthersCopyLeavesTheirMemoryAlone) {
  // Ranks free their buffers as soon as they fail; under the sanitizers this shows a read of
  // another's freed memory.
  for (int round = 0; round < 20; ++round) {
    const auto errors = run(4, [&](CommWorld& world, Communicator&) {
      if (world.rank() == 3) {
        std::this_thread::sleep_for(std::chrono::microseconds(200 * round));
        world.abort("now");
      }
      const auto three =
          world.group(world.rank() == 3 ? CommGroup{"b", {3}} : CommGroup{"a", {0, 1, 2}});
      for (int64_t step = 0;; ++step) {
        std::vector<float> data(30000, 1.0f);
        three->all_reduce(data.data(), 30000, DType::f32, {step, 0, "x"}, nullptr);
      }
    });
    for (const std::string& e : errors) EXPECT_EQ(e, "rank 3 failed: now");
  }
}

}  // namespace
}  // namespace shunt
