// The control channel between processes, over the connections that rendezvous() made: rank 0 has
// one to each other rank, the others have one to rank 0. One thread a process reads, sends
// heartbeats and notices who is gone; it takes no lock that another thread holds while waiting, so
// nothing that hangs in the rest of the program stops it.
#pragma once

#include <condition_variable>
#include <deque>
#include <thread>

#include "runtime/comm/rendezvous.h"
#include "runtime/comm/socket.h"
#include "runtime/comm/wire.h"

namespace shunt {

class SideChannel final : public ControlChannel {
 public:
  struct Peer {
    int rank = 0;
    std::string name;  // "host, pid 123"
    Socket socket;
    MessageReader in;
    Outbox out;  // what did not fit into the socket yet
    CommClock::time_point heard = CommClock::now();
    bool gone = false;
  };

  /// `peers`: all other ranks for rank 0, rank 0 for the others.
  SideChannel(const RendezvousOptions& options, std::vector<Peer> peers);
  ~SideChannel() override;

  void barrier(std::string_view name) override;
  std::string broadcast(std::string bytes) override;
  std::vector<std::string> gather(std::string_view name, std::string bytes) override;
  void send_step(StepDescriptor step, std::span<const std::byte> payload) override;
  std::optional<StepDescriptor> receive_step(std::vector<std::byte>& payload,
                                             Milliseconds wait) override;
  void set_progress(RankProgress progress) override { own_progress_.set(progress); }
  std::vector<RankProgress> progress() const override;
  void fail(const std::string& reason) override;
  bool alive() const override { return !failed_.load(std::memory_order_acquire); }
  void check() const override;
  void close() override;

 private:
  // All of these run under mutex_.
  void post(Peer& peer, const std::string& message);
  void post_all(const std::string& message);
  void record(const std::string& reason, const Peer* from);
  void lost(Peer& peer, const std::string& how);
  void read(Peer& peer);
  bool handle(Peer& peer, const Message& message);
  bool handle_arrive(Peer& peer, BodyReader& body);
  void meet(std::unique_lock<std::mutex>& lock, std::string_view name, std::string bytes);
  void release_if_complete();
  void released(const std::string& name, std::vector<std::string> bytes);
  void turn(CommClock::time_point now);
  std::vector<RankProgress> progress_now() const;
  template <class Ready, class Late>
  void await(std::unique_lock<std::mutex>& lock, Milliseconds wait, Ready ready, Late late);

  void run();  // the thread

  const RendezvousOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Peer> peers_;
  AtomicProgress own_progress_;
  std::vector<RankProgress> progress_;  // of the others, by rank
  std::atomic<bool> failed_ = false;
  std::string reason_;
  bool callback_due_ = false;
  bool closing_ = false;  // all ranks have come to close(): connections may end
  bool stop_ = false;

  struct Arrival {
    uint64_t number = 0;  // of the barrier, from 1
    std::string name;
    std::string bytes;  // what the rank brought
  };
  std::vector<Arrival> arrived_;      // rank 0: by rank; the others: own at [rank]
  uint64_t released_ = 0;             // barriers that are over
  std::vector<std::string> brought_;  // to the last of them, by rank
  CommClock::time_point first_arrival_;

  std::deque<std::string> blobs_;
  std::deque<std::pair<StepDescriptor, std::vector<std::byte>>> steps_;
  int64_t next_step_ = 0;

  CommClock::time_point next_heartbeat_ = CommClock::now();
  CommClock::time_point last_turn_ = CommClock::now();
  Socket wake_;
  std::thread thread_;
};

}  // namespace shunt
