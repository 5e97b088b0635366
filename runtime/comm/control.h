// The control channel between ranks: what is not tensor data. One object a rank; in_process.h
// implements it for threads of one process, rendezvous.h for processes over TCP. It says where
// every rank stands, carries the step descriptor from rank 0 to the others, and makes one rank's
// failure everybody's.
//
// Every wait ends: by what it waited for, at its deadline, or because a rank failed. All three
// kinds of failure are a DeviceError whose text is the same on every rank and names the rank at
// fault. A failure is final: from then on every call throws it. A rank that goes away without
// close() has failed.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

using Milliseconds = std::chrono::milliseconds;
using CommClock = std::chrono::steady_clock;

/// What rank 0 tells the others before each run; sizes come with the inputs, in the payload. Sent
/// as it is in memory: ranks are of one program version.
struct StepDescriptor {
  enum class Kind : int32_t { run, counters, stop };
  int64_t sequence =
      0;  // set by send_step: 0, 1, 2, ...; a gap is an InternalError at the receiver
  Kind kind = Kind::run;
  int32_t program = -1;  // index into plan.programs
  int64_t flags = 0;     // free for the session
  bool operator==(const StepDescriptor&) const = default;
};

/// Where a rank stands: the step it is in and the index of its next op there (-1: between steps).
struct RankProgress {
  int64_t step = -1;
  int32_t op = -1;
  bool operator==(const RankProgress&) const = default;
};

/// A RankProgress that one thread sets and others read.
class AtomicProgress {
 public:
  void set(RankProgress p) {
    packed_.store(((p.step + 1) << 24) | (p.op + 1), std::memory_order_relaxed);
  }
  RankProgress get() const {
    const int64_t packed = packed_.load(std::memory_order_relaxed);
    return {(packed >> 24) - 1, static_cast<int32_t>(packed & 0xffffff) - 1};
  }

 private:
  std::atomic<int64_t> packed_ = 0;  // step + 1 above 24 bits of op + 1
};

class ControlChannel {
 public:
  virtual ~ControlChannel() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }
  /// The deadline of one wait (`--comm-timeout`).
  Milliseconds timeout() const { return timeout_; }

  /// Returns when all ranks have called it with the same name ("weights loaded").
  virtual void barrier(std::string_view name) = 0;
  /// Rank 0's bytes, on all ranks; what the others pass is ignored.
  virtual std::string broadcast(std::string bytes) = 0;
  /// What every rank passes, by rank, on all ranks. A barrier too, of that name.
  virtual std::vector<std::string> gather(std::string_view name, std::string bytes) = 0;

  /// Rank 0 only. Does not wait for the others. `payload` (inputs of the step) is the same for all
  /// ranks.
  virtual void send_step(StepDescriptor step, std::span<const std::byte> payload) = 0;
  /// The others. nullopt when none came within `wait`: being idle is no failure.
  virtual std::optional<StepDescriptor> receive_step(std::vector<std::byte>& payload,
                                                     Milliseconds wait) = 0;

  /// Cheap (a relaxed store): to be called at every step, and at every collective that is not
  /// captured in a graph.
  virtual void set_progress(RankProgress progress) = 0;
  /// Of all ranks, as far as known here: own value exact, others up to one heartbeat old.
  virtual std::vector<RankProgress> progress() const = 0;

  /// Ends all ranks: they get "rank R failed: reason". The first failure is the one that is kept.
  virtual void fail(const std::string& reason) = 0;
  /// False after a failure. Takes no lock.
  virtual bool alive() const = 0;
  /// Throws the failure, if there was one.
  virtual void check() const = 0;
  /// A barrier, after which a rank may go away. To be called on success only.
  virtual void close() = 0;

  /// `callback` runs once, on another thread, at a failure (at once if there was one). Replaces the
  /// former; an empty function removes it and waits until a running one has returned. It must not
  /// call set_on_failure.
  void set_on_failure(std::function<void()> callback);

 protected:
  ControlChannel(int rank, int size, Milliseconds timeout)
      : rank_(rank), size_(size), timeout_(timeout) {}
  /// For implementations, after a failure is recorded; without holding locks that a callback could
  /// want.
  void run_on_failure();

 private:
  int rank_, size_;
  Milliseconds timeout_;
  std::mutex callback_mutex_;
  std::function<void()> callback_;
  bool callback_due_ = false;
};

// ---- texts that several files share ----

/// "30 s", "0.25 s".
std::string seconds_text(Milliseconds time);
/// "rank 2", "ranks 1, 3".
std::string ranks_text(const std::vector<int>& ranks);
/// "step 17, op 57", "step 17", "no step yet".
std::string progress_text(RankProgress progress);
/// "rank 2 did not arrive at step 17, all_reduce model.layers.3.mlp within 30 s (rank 2 at step 16,
/// op 3)". `what` is the "step 17, ..." part; `all` is by world rank. With nobody `missing`: that
/// it did not end, and where all stand.
std::string late_text(const std::vector<int>& missing, const std::vector<RankProgress>& all,
                      std::string_view what, Milliseconds timeout);
/// Those of `group` (world ranks) that have not come to `here`.
std::vector<int> ranks_behind(const std::vector<RankProgress>& all, const std::vector<int>& group,
                              RankProgress here);

}  // namespace shunt
