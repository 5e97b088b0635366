// The protocols of codegen/kernels/peer_sum.cuh and dispatch_lines.cuh on a model: threads stand
// for ranks, atomics for words of peer memory, and each rank's "GPU threads" take turns at random.
// Epochs and places of lines are the kernels' own (common/peer_layout.cuh). What it is to catch:
// memory that a fast rank overwrites while a slow one still reads it. That it can is shown by
// models with one half of memory instead of two.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#define __host__
#define __device__
#include "codegen/kernels/common/peer_layout.cuh"
#undef __host__
#undef __device__

#include "runtime/plan/peer_table.h"

namespace shunt {
namespace {

static_assert(kPeerEpochCounters == kPeerEpochs, "what is allocated is what kernels count with");

struct Shape {
  int ranks = 2;
  bool sliced = false;
  bool one_half = false;  // every epoch in the same memory: wrong
  uint32_t first_epoch = 0;
  int launches = 80;
  int64_t most_lines = 100;
};

/// A line: a value, and the epoch it is of.
using Line = std::atomic<uint64_t>;

void push(Line& line, uint32_t payload, uint32_t epoch) {
  line.store(uint64_t{epoch} << 32 | payload, std::memory_order_relaxed);
}

void on_all_ranks(int ranks, const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) threads.emplace_back(work, r);
  for (std::thread& t : threads) t.join();
}

struct Memory {
  std::vector<Line> parts, sums;
};

class Model {
 public:
  explicit Model(const Shape& shape) : s_(shape), memory_(static_cast<size_t>(shape.ranks)) {
    const int64_t slice = slice_lines(s_.most_lines, s_.ranks);
    part_bytes_ = s_.sliced ? buffer(slice, s_.ranks) : buffer(s_.most_lines, s_.ranks);
    sum_bytes_ = buffer(s_.ranks * slice, 1);
    for (Memory& m : memory_) {
      m.parts = std::vector<Line>(static_cast<size_t>(part_bytes_ / 16));
      m.sums = std::vector<Line>(static_cast<size_t>(sum_bytes_ / 16));
    }
  }

  /// Launches that went wrong on some rank: a wrong sum, or a line that never came.
  int run() {
    on_all_ranks(s_.ranks, [this](int r) { rank(r); });
    return wrong_;
  }

 private:
  static int64_t buffer(int64_t lines, int sources) {
    return (lines + 31) / 32 * 32 * sources * 2 * 16;
  }
  static uint32_t value(int rank, int launch, int64_t line) {
    return static_cast<uint32_t>(rank * 1'000'003 + launch * 1'009 + line * 7);
  }
  size_t at(int64_t line, int source, int sources, uint32_t epoch) const {
    return static_cast<size_t>(line_offset(line, source, sources, s_.one_half ? 0 : epoch) / 16);
  }
  static bool poll(const Line& line, uint32_t epoch, uint32_t& payload) {
    const uint64_t word = line.load(std::memory_order_relaxed);
    payload = static_cast<uint32_t>(word);
    return word >> 32 == epoch;
  }

  /// What is left to do of a launch for one line.
  struct Work {
    enum { push, own, other, done } next = push;
    int64_t line = 0;
  };

  /// One attempt at a line; as in the kernels, its waits begin after its pushes.
  void turn(int me, int launch, int64_t lines, uint32_t epoch, Work& w) {
    const int64_t slice = slice_lines(lines, s_.ranks);
    const int owner = s_.sliced ? static_cast<int>(w.line / slice) : me;
    const int64_t in_slice = s_.sliced ? w.line - owner * slice : w.line;
    if (w.next == Work::push) {
      for (int r = 0; r < s_.ranks; ++r) {
        if (r == me || (s_.sliced && r != owner)) continue;
        push(memory_[r].parts[at(in_slice, me, s_.ranks, epoch)], value(me, launch, w.line), epoch);
      }
      w.next = owner == me ? Work::own : Work::other;
      return;
    }
    uint32_t sum = 0;
    if (w.next == Work::own) {
      for (int r = 0; r < s_.ranks; ++r) {
        uint32_t part = value(me, launch, w.line);
        if (r != me && !poll(memory_[me].parts[at(in_slice, r, s_.ranks, epoch)], epoch, part))
          return;
        sum += part;
      }
      for (int r = 0; s_.sliced && r < s_.ranks; ++r) {
        if (r != me) push(memory_[r].sums[at(w.line, 0, 1, epoch)], sum, epoch);
      }
    } else if (!poll(memory_[me].sums[at(w.line, 0, 1, epoch)], epoch, sum)) {
      return;
    }
    uint32_t expected = 0;
    for (int r = 0; r < s_.ranks; ++r) expected += value(r, launch, w.line);
    if (sum != expected) ++wrong_;
    w.next = Work::done;
  }

  void clear(int me, int64_t lines, uint32_t epoch) {
    const int64_t slice = slice_lines(lines, s_.ranks);
    const int64_t part = line_to_clear(part_bytes_, s_.ranks, epoch);
    if (part >= (s_.sliced ? slice_length(lines, slice, me) : lines)) {
      for (int r = 0; r < s_.ranks; ++r) memory_[me].parts[at(part, r, s_.ranks, epoch)] = 0;
    }
    const int64_t sum = line_to_clear(sum_bytes_, 1, epoch);
    if (s_.sliced && (sum >= lines || sum / slice == me))
      memory_[me].sums[at(sum, 0, 1, epoch)] = 0;
  }

  void rank(int me) {
    std::minstd_rand sizes(7), random(static_cast<unsigned>(me) + 1);  // sizes: the same on all
    uint32_t epoch = s_.first_epoch;
    for (int launch = 0; launch < s_.launches && wrong_ == 0; ++launch) {
      epoch = epoch_after(epoch);
      const int64_t lines = 1 + static_cast<int64_t>(sizes()) % s_.most_lines;
      std::vector<Work> work(static_cast<size_t>(lines));
      for (int64_t i = 0; i < lines; ++i) work[static_cast<size_t>(i)].line = i;
      if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
      const auto start = std::chrono::steady_clock::now();
      while (!work.empty() && wrong_ == 0) {
        const size_t i = random() % work.size();
        turn(me, launch, lines, epoch, work[i]);
        if (work[i].next == Work::done) {
          work[i] = work.back();
          work.pop_back();
        } else if (random() % 64 == 0) {
          std::this_thread::yield();
          if (std::chrono::steady_clock::now() - start > std::chrono::seconds(s_.one_half ? 1 : 60))
            ++wrong_;  // it will never come
        }
      }
      if (!s_.one_half) clear(me, lines, epoch);
    }
  }

  const Shape s_;
  std::vector<Memory> memory_;  // by rank
  int64_t part_bytes_ = 0, sum_bytes_ = 0;
  std::atomic<int> wrong_ = 0;
};

/// dispatch_lines: a rank sends every rank as many lines as it happens to have, and in a line of
/// mail how many; who has them all goes on. What is not sent must not look as if it were, however
/// long ago memory was used.
class ExchangeModel {
 public:
  explicit ExchangeModel(const Shape& shape) : s_(shape), memory_(static_cast<size_t>(s_.ranks)) {
    bytes_ = (s_.most_lines + 31) / 32 * 32 * s_.ranks * 2 * 16;
    for (Memory& m : memory_) {
      m.lines = std::vector<Line>(static_cast<size_t>(bytes_ / 16));
      m.mail = std::vector<Line>(static_cast<size_t>(32 * s_.ranks * 2));
    }
  }

  int run() {
    on_all_ranks(s_.ranks, [this](int r) { rank(r); });
    return wrong_;
  }

 private:
  struct Memory {
    std::vector<Line> lines, mail;
  };
  struct Wait {
    int source;
    int64_t line;  // -1: the mail
  };

  size_t at(int64_t line, int source, uint32_t epoch) const {
    return static_cast<size_t>(line_offset(line, source, s_.ranks, s_.one_half ? 0 : epoch) / 16);
  }
  int64_t count(int from, int to, int launch) const {  // often none
    const auto mixed =
        static_cast<uint32_t>(launch * 7919 + from * 104729 + to * 1299709) * 2654435769u;
    return (mixed >> 28) % 3 == 0 ? 0 : static_cast<int64_t>(mixed >> 8) % (s_.most_lines + 1);
  }
  static uint32_t value(int from, int to, int launch, int64_t line) {
    return static_cast<uint32_t>(((from * 8 + to) * 100'003 + launch) * 1'009 + line);
  }

  /// True when the line is there, and right.
  bool take(int me, int launch, uint32_t epoch, const Wait& w, std::vector<Wait>& more) {
    const bool mail = w.line < 0;
    const std::vector<Line>& from = mail ? memory_[me].mail : memory_[me].lines;
    const uint64_t word =
        from[at(mail ? 0 : w.line, w.source, epoch)].load(std::memory_order_relaxed);
    if (word >> 32 != epoch) return false;
    const auto payload = static_cast<uint32_t>(word);
    if (mail) {
      if (payload != count(w.source, me, launch)) ++wrong_;
      for (int64_t i = 0; i < std::min<int64_t>(payload, s_.most_lines); ++i)
        more.push_back({w.source, i});
    } else if (payload != value(w.source, me, launch, w.line)) {
      ++wrong_;
    }
    return true;
  }

  void rank(int me) {
    std::minstd_rand random(static_cast<unsigned>(me) + 1);
    uint32_t epoch = s_.first_epoch;
    for (int launch = 0; launch < s_.launches && wrong_ == 0; ++launch) {
      epoch = epoch_after(epoch);
      if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
      std::vector<Wait> waits;
      for (int p = 0; p < s_.ranks; ++p) {
        const int to = (me + 1 + p) % s_.ranks;
        for (int64_t i = 0; i < count(me, to, launch); ++i)
          push(memory_[to].lines[at(i, me, epoch)], value(me, to, launch, i), epoch);
        push(memory_[to].mail[at(0, me, epoch)], static_cast<uint32_t>(count(me, to, launch)),
             epoch);
        waits.push_back({to, -1});
      }
      const auto start = std::chrono::steady_clock::now();
      while (!waits.empty() && wrong_ == 0) {
        const size_t i = random() % waits.size();
        const Wait w = waits[i];
        if (take(me, launch, epoch, w, waits)) {
          waits[i] = waits.back();
          waits.pop_back();
        } else if (random() % 64 == 0) {
          std::this_thread::yield();
          if (std::chrono::steady_clock::now() - start > std::chrono::seconds(s_.one_half ? 1 : 60))
            ++wrong_;
        }
      }
      const int64_t stale = line_to_clear(bytes_, s_.ranks, epoch);
      for (int p = 0; !s_.one_half && p < s_.ranks; ++p) {
        if (stale >= count(p, me, launch)) memory_[me].lines[at(stale, p, epoch)] = 0;
      }
    }
  }

  const Shape s_;
  std::vector<Memory> memory_;  // by rank
  int64_t bytes_ = 0;
  std::atomic<int> wrong_ = 0;
};

TEST(PeerProtocol, ExchangesOfAnyCounts) {
  for (const int ranks : {2, 3, 4, 8}) {
    SCOPED_TRACE(testing::Message() << ranks << " ranks");
    EXPECT_EQ(ExchangeModel({.ranks = ranks}).run(), 0);
  }
  EXPECT_EQ(ExchangeModel({.ranks = 3, .first_epoch = 0xffffffd0u}).run(), 0);
}

TEST(PeerProtocol, TheModelSeesAHazardOfExchanges) {
  int wrong = 0;
  for (int attempt = 0; attempt < 20 && wrong == 0; ++attempt)
    wrong = ExchangeModel({.ranks = 3, .one_half = true, .launches = 2000}).run();
  EXPECT_GT(wrong, 0);
}

TEST(PeerProtocol, NobodyOverwritesWhatOthersStillRead) {
  for (const int ranks : {2, 3, 4, 8}) {
    for (const bool sliced : {false, true}) {
      SCOPED_TRACE(testing::Message() << ranks << " ranks" << (sliced ? ", sliced" : ""));
      EXPECT_EQ(Model({.ranks = ranks, .sliced = sliced}).run(), 0);
    }
  }
}

TEST(PeerProtocol, EpochsStartAgain) {
  for (const bool sliced : {false, true})
    EXPECT_EQ(Model({.ranks = 3, .sliced = sliced, .first_epoch = 0xffffffd0u}).run(), 0);
}

TEST(PeerProtocol, TheModelSeesAHazard) {
  int wrong = 0;
  for (int attempt = 0; attempt < 20 && wrong == 0; ++attempt)
    wrong = Model({.ranks = 3, .one_half = true, .launches = 2000}).run();
  EXPECT_GT(wrong, 0);
}

TEST(PeerLayout, LinesOfSourcesAndHalvesAreApart) {
  for (const int sources : {1, 2, 5}) {
    std::vector<int> seen(static_cast<size_t>(96 * sources * 2), 0);
    for (int64_t line = 0; line < 96; ++line) {
      for (int source = 0; source < sources; ++source) {
        for (const uint32_t epoch : {6u, 7u}) {
          const int64_t at = line_offset(line, source, sources, epoch);
          ASSERT_EQ(at % 16, 0);
          ++seen.at(static_cast<size_t>(at / 16));
        }
      }
    }
    EXPECT_EQ(seen, std::vector<int>(seen.size(), 1)) << sources;
  }
}

TEST(PeerLayout, SlicesHoldAllLines) {
  for (const int ranks : {2, 3, 8}) {
    for (const int64_t lines : {1, 31, 32, 33, 100, 257, 4096}) {
      const int64_t slice = slice_lines(lines, ranks);
      int64_t all = 0;
      for (int r = 0; r < ranks; ++r) all += std::max<int64_t>(0, slice_length(lines, slice, r));
      EXPECT_EQ(all, lines) << ranks;
    }
  }
}

TEST(PeerLayout, EveryLineIsClearedInTurn) {
  std::vector<int> cleared(64, 0);
  for (uint32_t epoch = 2; epoch < 130; ++epoch)
    ++cleared.at(static_cast<size_t>(line_to_clear(64 * 3 * 32, 3, epoch)));
  EXPECT_EQ(cleared, std::vector<int>(64, 2));
  EXPECT_EQ(line_to_clear(0, 3, 5), -1);
  EXPECT_EQ(epoch_after(0xffffffffu), 2u);
}

}  // namespace
}  // namespace shunt
