// Fork-join by one atomic ticket: (loop number, chunks left). Claiming is a compare-and-swap, so a
// claim can only succeed for the loop whose ticket was read, and the caller leaves the loop only
// when every claimed chunk is done. Entry point: ThreadPool::parallel_for. Tests:
// tests/runtime/host/thread_pool_test.cpp (also run under TSan).
#include "runtime/host/thread_pool.h"

#include <sched.h>

#include "ir/error.h"

namespace shunt {
namespace {

// About 40 us of waiting on the machines at hand, more than the serial gaps of a decode step.
constexpr int kSpinsBeforeSleep = 2000;
// The caller gives up its core to a descheduled worker after about 20 us.
constexpr int kSpinsBeforeYield = 1000;

inline void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

}  // namespace

int ThreadPool::default_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = default_threads();
  scratch_.resize(static_cast<size_t>(threads) + 2);
  workers_.reserve(static_cast<size_t>(threads) - 1);
  for (int worker = 1; worker < threads; ++worker)
    workers_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_seq_cst);
  {
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  for (std::thread& worker : workers_) worker.join();
}

void* ThreadPool::scratch(int worker, size_t bytes) {
  Scratch& mine = scratch_[static_cast<size_t>(worker + 2)];
  if (mine.bytes < bytes) {
    mine.memory
        .reset();  // first: the contents need not survive, and two at once would double the peak
    mine.memory.reset(new std::byte[bytes + 64]);
    mine.bytes = bytes;
  }
  const auto address = reinterpret_cast<uintptr_t>(mine.memory.get());
  return reinterpret_cast<void*>((address + 63) & ~uintptr_t{63});
}

void ThreadPool::run(int64_t chunks, Call call, void* context) {
  SHUNT_CHECK(!busy_.exchange(true, std::memory_order_relaxed), "parallel_for inside parallel_for");
  SHUNT_CHECK(chunks < static_cast<int64_t>(kCountMask), "{} chunks in one loop", chunks);
  call_ = call;
  context_ = context;
  chunks_ = chunks;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t loop = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(loop << 32 | static_cast<uint64_t>(chunks), std::memory_order_seq_cst);
  // A worker counts itself as a sleeper before its last look at the ticket: one of us sees the
  // other.
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  while (claim_and_run(0)) {
  }
  for (int spins = 0; done_.load(std::memory_order_acquire) < chunks; ++spins) {
    if (spins < kSpinsBeforeYield) {
      pause_core();
    } else {
      std::this_thread::yield();
    }
  }
  busy_.store(false, std::memory_order_relaxed);
}

bool ThreadPool::claim_and_run(int worker) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  do {
    if ((ticket & kCountMask) == 0) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire));
  const int64_t chunk = chunks_ - static_cast<int64_t>(ticket & kCountMask);
  call_(context_, chunk, worker);
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

bool ThreadPool::wait_for_work() {
  for (int spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    if (has_work()) return true;
    pause_core();
  }
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return has_work() || stop_.load(std::memory_order_seq_cst); });
  }
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  return !stop_.load(std::memory_order_seq_cst);
}

void ThreadPool::work(int worker) {
  while (wait_for_work()) {
    while (claim_and_run(worker)) {
    }
  }
}

}  // namespace shunt
