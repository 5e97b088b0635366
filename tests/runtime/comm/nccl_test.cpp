// Collectives through NCCL with a thread a GPU, and that a failing rank ends the others although
// their kernels wait for it. Needs two GPUs; without them only the version is looked at.
#include "runtime/comm/nccl.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <thread>

#include "ir/error.h"
#include "runtime/comm/in_process.h"
#include "runtime/device.h"

namespace shunt {
namespace {

using Body = std::function<void(CommWorld& world, Communicator& all, Stream& stream)>;

constexpr int kRanks = 2;

std::vector<std::string> run(const Body& body, Milliseconds timeout) {
  InProcessWorld ranks(kRanks, timeout);
  std::vector<std::string> errors(kRanks);
  std::vector<std::thread> threads;
  for (int r = 0; r < kRanks; ++r)
    threads.emplace_back([&, r] {
      try {
        use_device(r);
        NcclOptions options;
        options.control = ranks.control(r);
        options.device = r;
        const auto world = make_nccl_world(std::move(options));
        const auto all = world->group({"tp", {0, 1}});
        Stream stream;
        body(*world, *all, stream);
        world->control().close();
      } catch (const Error& e) {
        errors[static_cast<size_t>(r)] = e.what();
        ranks.fail(e.what());
      }
    });
  for (std::thread& t : threads) t.join();
  return errors;
}

std::vector<int32_t> fetch(const DeviceBuffer& buffer, size_t n, CommWorld& world, Stream& stream) {
  PinnedBuffer host(static_cast<int64_t>(4 * n), "test");
  copy_to_host(host.data(), buffer.data(), host.size(), stream);
  world.wait(stream.get(), {0, 9, "fetch"});
  const auto* p = reinterpret_cast<const int32_t*>(host.data());
  return {p, p + n};
}

DeviceBuffer put(const std::vector<int32_t>& values, Stream& stream) {
  DeviceBuffer buffer(static_cast<int64_t>(4 * values.size()), "test");
  copy_to_device(buffer.data(), values.data(), buffer.size(), stream);
  stream.synchronize();
  return buffer;
}

TEST(Nccl, Version) { EXPECT_TRUE(nccl_version().starts_with("2.")) << nccl_version(); }

TEST(Nccl, Collectives) {
  if (device_count() < kRanks) GTEST_SKIP() << "needs two GPUs";
  const auto errors = run(
      [](CommWorld& world, Communicator& all, Stream& stream) {
        using V = std::vector<int32_t>;
        const int r = world.rank();
        const DeviceBuffer sum = put({r, 10 + r}, stream);
        all.all_reduce(sum.data(), 2, DType::i32, {0, 0, "sum"}, stream.get());
        EXPECT_EQ(fetch(sum, 2, world, stream), (V{1, 21}));
        const DeviceBuffer mine = put({r, r + 5}, stream), parts = put({0, 0, 0, 0}, stream);
        all.all_gather(mine.data(), parts.data(), 2, DType::i32, {0, 1, "gather"}, stream.get());
        EXPECT_EQ(fetch(parts, 4, world, stream), (V{0, 5, 1, 6}));
        all.reduce_scatter(parts.data(), mine.data(), 2, DType::i32, {0, 2, "scatter"},
                           stream.get());
        EXPECT_EQ(fetch(mine, 2, world, stream), r == 0 ? (V{0, 10}) : (V{2, 12}));
        const DeviceBuffer send = put({10 * r, 10 * r + 1}, stream), recv = put({0, 0}, stream);
        all.all_to_all(send.data(), recv.data(), 1, DType::i32, {0, 3, "exchange"}, stream.get());
        EXPECT_EQ(fetch(recv, 2, world, stream), (V{r, 10 + r}));
        const DeviceBuffer counts = put({r, 1 - r}, stream), got = put({7, 7}, stream);
        all.all_to_all_v(send.data(), reinterpret_cast<const int32_t*>(counts.data()), recv.data(),
                         reinterpret_cast<int32_t*>(got.data()), 1, 1, DType::i32, {0, 4, "uneven"},
                         stream.get());
        EXPECT_EQ(fetch(got, 2, world, stream), r == 0 ? (V{0, 1}) : (V{1, 0}));
        all.broadcast(send.data(), 2, DType::i32, 1, {0, 5, "broadcast"}, stream.get());
        EXPECT_EQ(fetch(send, 2, world, stream), (V{10, 11}));
        all.barrier({0, 6, "end"}, stream.get());
        world.wait(stream.get(), {0, 6, "end"});
      },
      Milliseconds(30'000));
  for (const std::string& e : errors) EXPECT_EQ(e, "");
}

TEST(Nccl, CapturedIntoAGraph) {
  if (device_count() < kRanks) GTEST_SKIP() << "needs two GPUs";
  const auto errors = run(
      [](CommWorld& world, Communicator& all, Stream& stream) {
        const DeviceBuffer x = put({1}, stream);
        all.all_reduce(x.data(), 1, DType::i32, {0, 0, "warm"}, stream.get());
        world.wait(stream.get(), {0, 0, "warm"});
        const Graph graph = Graph::capture(stream, [&] {
          all.all_reduce(x.data(), 1, DType::i32, {1, 0, "captured"}, stream.get());
        });
        for (int step = 0; step < 5; ++step) graph.launch(stream);
        EXPECT_EQ(fetch(x, 1, world, stream), (std::vector<int32_t>{64}));
      },
      Milliseconds(30'000));
  for (const std::string& e : errors) EXPECT_EQ(e, "");
}

TEST(Nccl, AbortEndsKernelsThatWait) {
  if (device_count() < kRanks) GTEST_SKIP() << "needs two GPUs";
  const auto start = CommClock::now();
  const auto errors = run(
      [](CommWorld& world, Communicator& all, Stream& stream) {
        const DeviceBuffer x = put({1}, stream);
        all.all_reduce(x.data(), 1, DType::i32, {0, 0, "warm"}, stream.get());
        world.wait(stream.get(), {0, 0, "warm"});
        const Graph graph = Graph::capture(stream, [&] {
          all.all_reduce(x.data(), 1, DType::i32, {1, 0, "captured"}, stream.get());
        });
        world.control().barrier("captured");
        if (world.rank() == 1) {
          std::this_thread::sleep_for(Milliseconds(300));
          world.abort("a test");
          world.control().check();
        }
        graph.launch(stream);
        world.wait(stream.get(), {1, 0, "captured"});
      },
      Milliseconds(30'000));
  for (const std::string& e : errors) EXPECT_EQ(e, "rank 1 failed: a test");
  EXPECT_LT(CommClock::now() - start, std::chrono::seconds(15));
}

TEST(Nccl, MissingRankIsNamed) {
  if (device_count() < kRanks) GTEST_SKIP() << "needs two GPUs";
  const auto errors = run(
      [](CommWorld& world, Communicator& all, Stream& stream) {
        const DeviceBuffer x = put({1}, stream);
        all.all_reduce(x.data(), 1, DType::i32, {16, 0, "warm"}, stream.get());
        world.wait(stream.get(), {16, 0, "warm"});
        world.control().set_progress({16, -1});
        world.control().barrier("ready");
        if (world.rank() == 1) {
          while (world.control().alive()) std::this_thread::sleep_for(Milliseconds(5));
          world.control().check();
        }
        world.control().set_progress({17, -1});
        all.all_reduce(x.data(), 1, DType::i32, {17, 0, "model.layers.3.mlp"}, stream.get());
        world.wait(stream.get(), {17, 0, "model.layers.3.mlp"});
      },
      Milliseconds(1'000));
  for (const std::string& e : errors)
    EXPECT_NE(e.find("rank 1 did not arrive at step 17, model.layers.3.mlp within 1 s"),
              std::string::npos)
        << e;
}

}  // namespace
}  // namespace shunt
