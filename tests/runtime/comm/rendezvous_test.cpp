// Ranks over TCP (loopback): finding each other, every way in which that goes wrong, and the
// control channel after it. Ranks are threads here; rank_process_test.cpp has real processes that
// are killed.
#include "runtime/comm/rendezvous.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <thread>

#include "ir/error.h"
#include "runtime/comm/socket.h"
#include "runtime/comm/wire.h"

namespace shunt {
namespace {

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

using Body = std::function<void(ControlChannel&)>;
using Change = std::function<void(RendezvousOptions&)>;

struct Result {
  std::vector<std::string> errors;  // by thread; "" for none
  double seconds = 0;
};

/// Runs n ranks; `change` may spoil the options of a rank.
Result run(int n, const Change& change, const Body& body,
           Milliseconds timeout = Milliseconds(20'000)) {
  Result result{std::vector<std::string>(static_cast<size_t>(n))};
  const int port = free_port();
  const auto start = CommClock::now();
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r)
    threads.emplace_back([&, r] {
      RendezvousOptions options{
          .rank = r,
          .world = n,
          .address = "127.0.0.1",
          .port = port,
          .timeout = timeout,
          .fields = {{"program version", "1"}, {"plan", "a1b2"}, {"NCCL version", "2.28.9"}}};
      if (change) change(options);
      if (options.rank < 0) return;  // does not come
      try {
        const auto control = rendezvous(options);
        body(*control);
        control->close();
      } catch (const UserError& e) {
        result.errors[static_cast<size_t>(r)] = fmt::format("user: {}", e.what());
      } catch (const DeviceError& e) {
        result.errors[static_cast<size_t>(r)] = fmt::format("device: {}", e.what());
      }
    });
  for (std::thread& t : threads) t.join();
  result.seconds = std::chrono::duration<double>(CommClock::now() - start).count();
  return result;
}

void nothing(ControlChannel&) {}

void expect_fine(const Result& result) {
  for (const std::string& e : result.errors) EXPECT_EQ(e, "");
}

TEST(Rendezvous, OneRankNeedsNobody) {
  expect_fine(run(1, nullptr, [](ControlChannel& control) {
    EXPECT_EQ(control.broadcast("id"), "id");
    control.barrier("x");
  }));
}

TEST(Rendezvous, BarriersBroadcastsAndSteps) {
  std::atomic<int> in_first = 0;
  // Silence is not what this looks at, and a sanitizer on a busy machine takes its time.
  const Change patient = [](RendezvousOptions& o) { o.silence = Milliseconds(30'000); };
  const Result result = run(5, patient, [&](ControlChannel& control) {
    ++in_first;
    control.barrier("first");
    EXPECT_EQ(in_first, 5);
    for (int i = 0; i < 3; ++i) {
      const std::string text = fmt::format("id {} of rank {}", i, control.rank());
      EXPECT_EQ(control.broadcast(text), fmt::format("id {} of rank 0", i));
    }
    for (int i = 0; i < 200; ++i) {
      // One is larger than any socket's buffer.
      std::vector<std::byte> payload(i == 100 ? 20'000'000 : static_cast<size_t>(i), std::byte(i));
      if (control.rank() == 0) {
        control.send_step({.program = i, .flags = 7}, payload);
      } else {
        std::vector<std::byte> got;
        const auto step = control.receive_step(got, Milliseconds(20'000));
        ASSERT_TRUE(step.has_value());
        ASSERT_EQ(*step, (StepDescriptor{.sequence = i, .program = i, .flags = 7}));
        ASSERT_EQ(got, payload);
      }
    }
    for (int i = 0; i < 50; ++i) {
      control.barrier(fmt::format("{}", i));
      const auto brought = control.gather("names", fmt::format("{} of {}", i, control.rank()));
      ASSERT_EQ(brought.size(), 5u);
      for (size_t r = 0; r < brought.size(); ++r)
        ASSERT_EQ(brought[r], fmt::format("{} of {}", i, r));
    }
  });
  expect_fine(result);
}

TEST(Rendezvous, RanksKnowWhereOthersStand) {
  expect_fine(run(3, nullptr, [](ControlChannel& control) {
    control.set_progress({10 + control.rank(), control.rank()});
    const std::vector<RankProgress> expected{{10, 0}, {11, 1}, {12, 2}};
    const auto deadline = CommClock::now() + Milliseconds(20'000);
    while (control.progress() != expected && CommClock::now() < deadline)
      std::this_thread::sleep_for(Milliseconds(5));
    EXPECT_EQ(control.progress(), expected);
    control.barrier("seen");
  }));
}

TEST(Rendezvous, DifferingPlanIsNamedOnAllRanks) {
  const Result result = run(
      4,
      [](RendezvousOptions& o) {
        if (o.rank == 2) o.fields[1].value = "c3d4";
      },
      nothing);
  for (const std::string& e : result.errors) {
    EXPECT_HAS(e, "user: rank 2 (");
    EXPECT_HAS(e, "differs from rank 0: plan c3d4 there, plan a1b2 here on rank 0");
  }
  EXPECT_LT(result.seconds, 10);
}

TEST(Rendezvous, FirstDifferenceIsByFieldThenByRank) {
  const Result result = run(
      4,
      [](RendezvousOptions& o) {
        if (o.rank == 1) o.fields[2].value = "2.20";
        if (o.rank == 2) o.fields[1].value = "c3d4";
        if (o.rank == 3) o.fields[1].value = "e5f6";
      },
      nothing);
  for (const std::string& e : result.errors) EXPECT_HAS(e, "plan c3d4 there");
}

TEST(Rendezvous, FieldsThatOneRankLacks) {
  const Result result = run(
      2,
      [](RendezvousOptions& o) {
        if (o.rank == 1) o.fields.pop_back();
      },
      nothing);
  for (const std::string& e : result.errors)
    EXPECT_HAS(e, "nothing there, NCCL version 2.28.9 here");
}

TEST(Rendezvous, WrongWorldSize) {
  const Result result = run(
      3,
      [](RendezvousOptions& o) {
        if (o.rank == 1) o.world = 4;
      },
      nothing);
  for (const std::string& e : result.errors) EXPECT_HAS(e, "world size 4 there, 3 here");
  EXPECT_LT(result.seconds, 10);
}

TEST(Rendezvous, RankZeroHasTheSmallerWorld) {
  // Ranks 1 and 2 of 3 meet a rank 0 of 2; rank 2 comes a little later and hears of it all the
  // same.
  const Result result = run(
      3,
      [](RendezvousOptions& o) {
        if (o.rank == 0) o.world = 2;
        if (o.rank == 2) std::this_thread::sleep_for(Milliseconds(300));
      },
      nothing);
  for (const std::string& e : result.errors) EXPECT_HAS(e, "world size 3 there, 2 here");
  EXPECT_LT(result.seconds, 10);
}

TEST(Rendezvous, TwoProcessesOfOneRank) {
  const Result result = run(
      3,
      [](RendezvousOptions& o) {
        if (o.rank == 2) o.rank = 1;
      },
      nothing);
  for (const std::string& e : result.errors) EXPECT_HAS(e, "two processes are rank 1");
}

TEST(Rendezvous, MissingRank) {
  const Result result = run(
      4,
      [](RendezvousOptions& o) {
        if (o.rank == 2) o.rank = -1;
      },
      nothing, Milliseconds(400));
  for (const int r : {0, 1, 3}) {
    EXPECT_HAS(result.errors[static_cast<size_t>(r)],
               "device: rank 2 did not arrive at the rendezvous at 127.0.0.1:");
    EXPECT_HAS(result.errors[static_cast<size_t>(r)], "within 0.4 s");
  }
  EXPECT_LT(result.seconds, 10);
}

TEST(Rendezvous, MissingRankZero) {
  const Result result = run(
      3,
      [](RendezvousOptions& o) {
        if (o.rank == 0) o.rank = -1;
      },
      nothing, Milliseconds(300));
  for (const int r : {1, 2})
    EXPECT_HAS(result.errors[static_cast<size_t>(r)], "did not answer within 0.3 s");
}

TEST(Rendezvous, StrangersAreIgnored) {
  const Result result = run(
      2,
      [](RendezvousOptions& o) {
        if (o.rank != 1) return;
        std::string problem;
        for (const char* greeting : {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""}) {
          Socket stranger =
              connect_to(o.address, o.port, CommClock::now() + Milliseconds(20'000), problem);
          ASSERT_TRUE(stranger) << problem;
          Outbox out{greeting};
          stranger.send(out);
        }
        Socket liar =
            connect_to(o.address, o.port, CommClock::now() + Milliseconds(20'000), problem);
        Outbox out{encode(MessageKind::hello, "short")};
        liar.send(out);
      },
      nothing);
  expect_fine(result);
}

TEST(Rendezvous, TakenPort) {
  const int port = free_port();
  const Socket other = listen_on("127.0.0.1", port);
  try {
    rendezvous({.rank = 0, .world = 2, .address = "127.0.0.1", .port = port});
    FAIL();
  } catch (const DeviceError& e) {
    EXPECT_HAS(std::string(e.what()), fmt::format("rank 0 cannot listen on port {}", port));
    EXPECT_HAS(std::string(e.what()), "MASTER_PORT");
  }
}

TEST(Rendezvous, ForeignPort) {
  const int port = free_port();
  const Socket listener = listen_on("127.0.0.1", port);
  auto joining = std::async(std::launch::async, [port] {
    try {
      rendezvous({.rank = 1, .world = 2, .address = "127.0.0.1", .port = port});
    } catch (const DeviceError& e) {
      return std::string(e.what());
    }
    return std::string();
  });
  Socket socket;
  while (!socket) socket = accept_from(listener);
  Outbox out{"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"};
  socket.send(out);
  EXPECT_HAS(joining.get(), "is no rank 0 of this program");
}

TEST(SideChannel, FailureOfOneIsEverybodys) {
  for (const int culprit : {0, 2}) {
    std::atomic<int> callbacks = 0;
    const Result result = run(4, nullptr, [&](ControlChannel& control) {
      control.set_on_failure([&] { ++callbacks; });
      control.barrier("ready");
      if (control.rank() == culprit) control.fail("out of memory");
      try {
        control.barrier("never");
      } catch (const DeviceError&) {
        EXPECT_FALSE(control.alive());
        const auto deadline = CommClock::now() + Milliseconds(20'000);
        while (callbacks < 4 && CommClock::now() < deadline)
          std::this_thread::sleep_for(Milliseconds(1));
        throw;
      }
    });
    for (const std::string& e : result.errors)
      EXPECT_EQ(e, fmt::format("device: rank {} failed: out of memory", culprit));
    EXPECT_EQ(callbacks, 4);
  }
}

TEST(SideChannel, LeavingWithoutCloseIsAFailure) {
  const Result result = run(3, nullptr, [](ControlChannel& control) {
    control.set_progress({3, 1});
    control.barrier("ready");
    if (control.rank() == 1) user_error("bad request");
    std::vector<std::byte> payload;
    if (control.rank() == 2) control.receive_step(payload, Milliseconds(20'000));
    control.barrier("never");
  });
  EXPECT_EQ(result.errors[1], "user: bad request");
  EXPECT_EQ(result.errors[0], "device: rank 1 left at step 3, op 1 without closing");
  EXPECT_EQ(result.errors[2], result.errors[0]);
}

TEST(SideChannel, LateRankAtABarrierIsNamed) {
  for (const int late : {0, 2}) {
    const Result result = run(
        3, nullptr,
        [late](ControlChannel& control) {
          control.set_progress({5, 9});
          if (control.rank() == late) {
            while (control.alive()) std::this_thread::sleep_for(Milliseconds(1));
            control.check();
          }
          control.barrier("weights loaded");
        },
        Milliseconds(300));
    for (const std::string& e : result.errors) {
      EXPECT_HAS(e, fmt::format("device: rank {} did not arrive at barrier 'weights loaded' within "
                                "0.3 s (rank {} at ",
                                late, late));
    }
  }
}

TEST(SideChannel, DifferentBarriersArePrinted) {
  const Result result = run(2, nullptr, [](ControlChannel& control) {
    control.barrier(control.rank() == 0 ? "load" : "capture");
  });
  for (const std::string& e : result.errors)
    EXPECT_EQ(e, "device: rank 0 is at barrier 'load', rank 1 at barrier 'capture'");
}

TEST(SideChannel, IdleIsNoFailure) {
  expect_fine(run(
      2,
      [](RendezvousOptions& o) {
        o.heartbeat = Milliseconds(50);
        o.silence = Milliseconds(1'000);
      },
      [](ControlChannel& control) {
        std::vector<std::byte> payload;
        if (control.rank() == 1) {
          EXPECT_FALSE(control.receive_step(payload, Milliseconds(1'500)).has_value());
        } else {
          std::this_thread::sleep_for(Milliseconds(1'500));
        }
      },
      Milliseconds(5'000)));
}

TEST(Wire, BodiesAreReadWithinTheirBounds) {
  const std::string body = BodyWriter().value<int32_t>(7).text("abc").body();
  for (size_t n = 0; n <= body.size(); ++n) {
    BodyReader r(std::string_view(body).substr(0, n));
    r.value<int32_t>();
    r.text();
    EXPECT_EQ(r.done(), n == body.size());
  }
}

TEST(Wire, MessagesMayComeInPieces) {
  const std::string stream = encode(MessageKind::blob, "one") + encode(MessageKind::failure, "");
  MessageReader reader;
  std::vector<std::string> bodies;
  for (const char c : stream) {
    reader.bytes += c;
    while (auto m = reader.next()) bodies.push_back(m->body);
  }
  EXPECT_EQ(bodies, (std::vector<std::string>{"one", ""}));
  reader.max_size = 10;
  reader.bytes = encode(MessageKind::blob, "eleven chars");
  EXPECT_FALSE(reader.next().has_value());
  EXPECT_TRUE(reader.broken());
}

}  // namespace
}  // namespace shunt
