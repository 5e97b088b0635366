// ThreadPool: every chunk once, results visible, whatever the number of threads and the rhythm of
// calls.
#include "runtime/host/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace shunt {
namespace {

TEST(ThreadPool, RunsEveryChunkOnce) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t chunks : {0, 1, 2, 3, 7, 64, 1000}) {
      std::vector<int> seen(static_cast<size_t>(chunks),
                            0);  // plain ints: TSan proves that no chunk runs twice
      pool.parallel_for(chunks, [&](int64_t chunk, int worker) {
        ASSERT_GE(worker, 0);
        ASSERT_LT(worker, threads);
        ++seen[static_cast<size_t>(chunk)];
      });
      for (int count : seen) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, ManyShortLoopsSeeEachOthersResults) {
  ThreadPool pool(3);
  std::vector<int64_t> values(16, 0);
  for (int loop = 0; loop < 20000; ++loop) {
    // Each chunk reads what another chunk wrote in the loop before.
    std::vector<int64_t> before = values;
    pool.parallel_for(16, [&](int64_t chunk, int) {
      values[static_cast<size_t>(chunk)] = before[static_cast<size_t>((chunk + 1) % 16)] + 1;
    });
  }
  for (int64_t v : values) EXPECT_EQ(v, 20000);
}

TEST(ThreadPool, WakesSleepers) {
  ThreadPool pool(2);
  for (int loop = 0; loop < 20; ++loop) {
    std::this_thread::sleep_for(
        std::chrono::milliseconds(1));  // long enough for the worker to sleep
    std::vector<int> by(2, -1);
    pool.parallel_for(2,
                      [&](int64_t chunk, int worker) { by[static_cast<size_t>(chunk)] = worker; });
    EXPECT_GE(by[0], 0);
    EXPECT_GE(by[1], 0);
  }
}

TEST(ThreadPool, WorkersTakePart) {
  ThreadPool pool(2);
  bool taken = false;
  for (int loop = 0; loop < 100 && !taken; ++loop) {
    std::vector<int> by(8, 0);
    pool.parallel_for(8, [&](int64_t chunk, int worker) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      by[static_cast<size_t>(chunk)] = worker;
    });
    for (int worker : by) taken = taken || worker == 1;
  }
  EXPECT_TRUE(taken);
}

TEST(ThreadPool, ScratchIsAlignedAndKept) {
  ThreadPool pool(2);
  for (int worker : {-2, -1, 0, 1}) {
    void* small = pool.scratch(worker, 1000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(small) % 64, 0u);
    EXPECT_EQ(pool.scratch(worker, 10), small);
    void* large = pool.scratch(worker, 100000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(large) % 64, 0u);
    static_cast<char*>(large)[99999] = 1;
  }
  EXPECT_NE(pool.scratch(0, 8), pool.scratch(1, 8));
}

}  // namespace
}  // namespace shunt
