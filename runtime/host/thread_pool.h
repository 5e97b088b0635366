// A fork-join pool for host kernels: the caller and its workers share out the chunks of one loop at
// a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace shunt {

/// Workers spin for some tens of microseconds after a loop (the gap between two steps of a decode
/// is shorter), then sleep. A worker that is late, asleep or descheduled is not waited for: whoever
/// is awake takes the chunks. One loop at a time: parallel_for must be called by one thread, and
/// not from inside a chunk.
class ThreadPool {
 public:
  /// `threads` counts the caller; 1 starts no thread and runs everything inline. 0:
  /// default_threads().
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Cores this process may run on.
  static int default_threads();
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls f(chunk, worker) for every chunk in [0, chunks), in any order, and returns when all have
  /// returned. `worker` is in [0, threads()): no two chunks with the same worker run at once. f
  /// must not throw.
  template <class F>
  void parallel_for(int64_t chunks, F&& f) {
    if (chunks <= 1 || workers_.empty()) {
      for (int64_t chunk = 0; chunk < chunks; ++chunk) f(chunk, 0);
      return;
    }
    using Function = std::remove_reference_t<F>;
    run(
        chunks,
        [](void* context, int64_t chunk, int worker) noexcept {
          (*static_cast<Function*>(context))(chunk, worker);
        },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

  /// 64-byte aligned memory of one worker, or (worker = -1 and -2: two pieces) of the caller
  /// outside parallel_for; valid until the next request for the same worker. Grows to the largest
  /// request and stays; contents are undefined.
  void* scratch(int worker, size_t bytes);

 private:
  using Call = void (*)(void* context, int64_t chunk, int worker) noexcept;
  struct Scratch {
    std::unique_ptr<std::byte[]> memory;
    size_t bytes = 0;
    std::byte pad[48];  // one cache line each
  };

  void run(int64_t chunks, Call call, void* context);
  void work(int worker);
  bool claim_and_run(int worker);
  bool wait_for_work();
  bool has_work() const { return (ticket_.load(std::memory_order_seq_cst) & kCountMask) != 0; }

  static constexpr uint64_t kCountMask = 0xffffffffu;

  // High half: number of the loop; low half: chunks not yet claimed. One word, so that a late
  // worker cannot claim a chunk of the next loop with the function of this one.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> busy_{false};
  // Written by the caller before it publishes the ticket; read after a successful claim.
  Call call_ = nullptr;
  void* context_ = nullptr;
  int64_t chunks_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Scratch> scratch_;
  std::vector<std::thread> workers_;
};

}  // namespace shunt
