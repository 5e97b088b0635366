// The control channel between processes: its thread, which reads, sends what is left over, shows
// that this rank lives and notices which other does not. Entry point: SideChannel::run(). Tested by
// tests/runtime/comm/rendezvous_test.cpp.
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>

#include "runtime/comm/side_channel.h"

namespace shunt {

void SideChannel::run() {
  std::vector<pollfd> ready;
  std::unique_lock lock(mutex_);
  for (Peer& peer : peers_)
    read(peer);  // what came together with the last message of the rendezvous
  while (!stop_) {
    ready.assign(1, {wake_.fd(), POLLIN, 0});
    for (const Peer& peer : peers_) {
      const auto events = static_cast<short>(POLLIN | (peer.out.empty() ? 0 : POLLOUT));
      ready.push_back({peer.gone ? -1 : peer.socket.fd(), events, 0});  // -1: poll() ignores it
    }
    const int wait = poll_time(next_heartbeat_);
    lock.unlock();
    ::poll(ready.data(), ready.size(), wait);
    if (ready[0].revents != 0) clear_wake_up(wake_);
    lock.lock();
    for (size_t i = 0; i < peers_.size(); ++i) {
      Peer& peer = peers_[i];
      if (ready[i + 1].revents == 0 || peer.gone) continue;
      if ((ready[i + 1].revents & ~POLLOUT) != 0) read(peer);
      if (!peer.gone && !peer.out.empty() && !peer.socket.send(peer.out))
        lost(peer, "the connection broke");
    }
    turn(CommClock::now());
    if (std::exchange(callback_due_, false)) {
      lock.unlock();
      run_on_failure();
      lock.lock();
    }
  }
}

void SideChannel::read(Peer& peer) {
  const bool open = peer.socket.receive(peer.in.bytes);
  peer.heard = CommClock::now();
  while (const auto message = peer.in.next())
    if (!handle(peer, *message))
      return lost(peer, "it sent something that is no message of this program");
  if (peer.in.broken()) return lost(peer, "it sent something that is no message of this program");
  if (!open) lost(peer, "its connection closed, as when a process is killed");
}

/// False when the message is not in order.
bool SideChannel::handle(Peer& peer, const Message& message) {
  BodyReader body(message.body);
  const bool from_root = peer.rank == 0;
  switch (message.kind) {
    case MessageKind::heartbeat:
      if (!from_root) {
        progress_[static_cast<size_t>(peer.rank)] = body.value<RankProgress>();
      } else {
        for (RankProgress& p : progress_) p = body.value<RankProgress>();
      }
      return body.done();
    case MessageKind::failure: record(message.body, &peer); return true;
    case MessageKind::arrive: return !from_root && handle_arrive(peer, body);
    case MessageKind::release: {
      const auto number = body.value<uint64_t>();
      const std::string name = body.text();
      std::vector<std::string> brought(static_cast<size_t>(size()));
      for (std::string& bytes : brought) bytes = body.text();
      if (!from_root || !body.done() || number != released_ + 1) return false;
      released(name, std::move(brought));
      return true;
    }
    case MessageKind::blob:
      blobs_.push_back(message.body);
      changed_.notify_all();
      return from_root;
    case MessageKind::step: {
      const auto step = body.value<StepDescriptor>();
      const std::string payload = body.text();
      const auto* bytes = reinterpret_cast<const std::byte*>(payload.data());
      steps_.emplace_back(step, std::vector<std::byte>(bytes, bytes + payload.size()));
      changed_.notify_all();
      return from_root && body.done();
    }
    default: return false;
  }
}

bool SideChannel::handle_arrive(Peer& peer, BodyReader& body) {
  Arrival& arrival = arrived_[static_cast<size_t>(peer.rank)];
  const auto number = body.value<uint64_t>();
  const std::string name = body.text();
  const std::string bytes = body.text();
  if (!body.done() || number != arrival.number + 1) return false;
  arrival = {number, name, bytes};
  release_if_complete();
  return true;
}

/// What is due by the clock: heartbeats, silent peers, and on rank 0 barriers that some rank does
/// not come to.
void SideChannel::turn(CommClock::time_point now) {
  // This process itself did not run (stopped, or the machine was asleep): the others' silence says
  // nothing.
  if (now - last_turn_ > options_.silence / 2)
    for (Peer& peer : peers_) peer.heard = now;
  last_turn_ = now;
  if (now >= next_heartbeat_) {
    next_heartbeat_ = now + options_.heartbeat;
    BodyWriter body;
    if (rank() == 0) {
      for (const RankProgress& p : progress_now()) body.value(p);
    } else {
      body.value(own_progress_.get());
    }
    // A peer that does not read gets no more heartbeats on top: it is about to be found silent.
    for (Peer& peer : peers_)
      if (peer.out.empty()) post(peer, encode(MessageKind::heartbeat, body.body()));
  }
  if (closing_) return;
  for (Peer& peer : peers_)
    if (!peer.gone && now - peer.heard > options_.silence)
      lost(peer, fmt::format("no sign of it for {}", seconds_text(options_.silence)));
  if (rank() != 0) return;
  std::vector<int> missing;
  std::string name;
  for (size_t r = 0; r < arrived_.size(); ++r) {
    if (arrived_[r].number <= released_) {
      missing.push_back(static_cast<int>(r));
    } else {
      name = arrived_[r].name;
    }
  }
  if (!missing.empty() && missing.size() < arrived_.size() && now > first_arrival_ + timeout())
    record(late_text(missing, progress_now(), fmt::format("barrier '{}'", name), timeout()),
           nullptr);
}

}  // namespace shunt
