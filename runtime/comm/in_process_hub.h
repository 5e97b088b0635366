// The meeting place behind in_process.h: one lock, one condition variable, one failure for all
// groups and ranks. Private to runtime/comm/in_process*.cpp.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "runtime/comm/comm.h"

namespace shunt {

/// What a rank brings to a collective. Pointers are read by the other ranks between enter() and
/// leave().
struct InProcessCall {
  const char* op = "";
  CommSite site;
  bool control = false;  // of the control channel: site.loc is a name, there is no step
  int64_t count = 0;
  DType dtype = DType::u8;
  int root = -1;
  const void* send = nullptr;
  void* recv = nullptr;
  const int32_t* send_counts = nullptr;
  int64_t row_bytes = 0;

  std::string text() const;
  bool agrees(const InProcessCall& other) const;
};

class InProcessHub {
 public:
  struct Group {
    CommGroup ranks;
    std::vector<InProcessCall> calls;  // by rank of the group
    std::vector<char> here;
    int arrived = 0;       // ranks in enter()
    uint64_t entered = 0;  // collectives that all ranks have come to
    int busy = 0;          // ranks between enter() and leave()
    uint64_t left = 0;     // collectives that all ranks have left
  };

  InProcessHub(int size, Milliseconds timeout);

  int size() const { return static_cast<int>(progress.size()); }
  Group& group(const CommGroup& ranks);
  /// Publishes the call and waits for the group. After it all ranks may read g.calls, and all will
  /// call leave(): none throws in between, so that no rank's memory goes away while another reads
  /// it.
  void enter(Group& g, int rank, const InProcessCall& call);
  /// Waits until the whole group has called it.
  void leave(Group& g);

  /// The first reason is kept; runs the ranks' on_failure callbacks.
  void fail(const std::string& reason);
  void check() const;

  void add(ControlChannel* member, void (*run)(ControlChannel*));
  void remove(ControlChannel* member);

  const Milliseconds timeout;
  std::atomic<bool> failed = false;
  std::vector<AtomicProgress> progress;  // by world rank
  std::vector<RankProgress> all_progress() const;

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::deque<std::pair<StepDescriptor, std::vector<std::byte>>>>
      steps;  // by rank, under mutex

 private:
  bool record(const std::string& reason);  // under mutex; true if it is the first
  void notify_members();
  std::string mismatch(const Group& g) const;
  std::string late(const Group& g, const InProcessCall& call) const;

  std::string reason_;  // under mutex
  std::vector<std::unique_ptr<Group>> groups_;
  std::mutex members_mutex_;  // taken before a member's callback lock, never under `mutex`
  std::vector<std::pair<ControlChannel*, void (*)(ControlChannel*)>> members_;
};

/// For elements [begin, end): every target = the sum of the sources in order. Sources may be
/// targets.
void in_process_sum(DType dtype, const std::vector<const void*>& sources,
                    const std::vector<void*>& targets, int64_t begin, int64_t end);

/// The control channel of one rank.
class InProcessControl final : public ControlChannel {
 public:
  InProcessControl(std::shared_ptr<InProcessHub> hub, int rank);
  ~InProcessControl() override;
  void barrier(std::string_view name) override;
  std::string broadcast(std::string bytes) override;
  std::vector<std::string> gather(std::string_view name, std::string bytes) override;
  void send_step(StepDescriptor step, std::span<const std::byte> payload) override;
  std::optional<StepDescriptor> receive_step(std::vector<std::byte>& payload,
                                             Milliseconds wait) override;
  void set_progress(RankProgress progress) override;
  std::vector<RankProgress> progress() const override { return hub_->all_progress(); }
  void fail(const std::string& reason) override;
  bool alive() const override { return !hub_->failed.load(std::memory_order_acquire); }
  void check() const override { hub_->check(); }
  void close() override;

 private:
  std::shared_ptr<InProcessHub> hub_;
  InProcessHub::Group& all_;
  int64_t next_step_ = 0;
  bool closed_ = false;
};

}  // namespace shunt
