// The control channel between processes: what callers do. Entry point: the constructor, called by
// rendezvous(); the thread is in side_channel_thread.cpp. Tested by
// tests/runtime/comm/rendezvous_test.cpp.
#include "runtime/comm/side_channel.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "ir/error.h"

namespace shunt {

namespace {

// Rank 0 knows who is late, and its message should come first.
constexpr Milliseconds kSlack{1'000};

constexpr std::string_view kClose = "close";

}  // namespace

SideChannel::SideChannel(const RendezvousOptions& options, std::vector<Peer> peers)
    : ControlChannel(options.rank, options.world, options.timeout),
      options_(options),
      peers_(std::move(peers)),
      progress_(static_cast<size_t>(options.world)),
      arrived_(static_cast<size_t>(options.world)),
      wake_(make_wake_up()) {
  for (Peer& peer : peers_) {
    peer.heard = CommClock::now();
    peer.in.max_size = kMaxMessage;
  }
  if (!peers_.empty()) thread_ = std::thread([this] { run(); });
}

SideChannel::~SideChannel() {
  {
    const std::lock_guard lock(mutex_);
    if (!closing_ && !peers_.empty())
      record(fmt::format("rank {} left at {} without closing", rank(),
                         progress_text(own_progress_.get())),
             nullptr);
    stop_ = true;
  }
  wake_up(wake_);
  if (thread_.joinable()) thread_.join();
}

template <class Ready, class Late>
void SideChannel::await(std::unique_lock<std::mutex>& lock, Milliseconds wait, Ready ready,
                        Late late) {
  changed_.wait_until(lock, CommClock::now() + wait, [&] { return failed_ || ready(); });
  if (!failed_ && !ready()) record(late(), nullptr);
  if (failed_) throw DeviceError(reason_);
}

void SideChannel::barrier(std::string_view name) {
  std::unique_lock lock(mutex_);
  meet(lock, name, "");
}

std::vector<std::string> SideChannel::gather(std::string_view name, std::string bytes) {
  std::unique_lock lock(mutex_);
  meet(lock, name, std::move(bytes));
  return brought_;
}

/// Returns when all ranks have come; what they brought is in brought_ until this rank comes again.
void SideChannel::meet(std::unique_lock<std::mutex>& lock, std::string_view name,
                       std::string bytes) {
  if (failed_) throw DeviceError(reason_);
  SHUNT_CHECK(!closing_, "barrier '{}' after close", name);
  Arrival& own = arrived_[static_cast<size_t>(rank())];
  const uint64_t number = ++own.number;
  own.name = name;
  own.bytes = std::move(bytes);
  if (rank() == 0) {
    release_if_complete();
  } else {
    post_all(
        encode(MessageKind::arrive, BodyWriter().value(number).text(name).text(own.bytes).body()));
  }
  await(
      lock, timeout() + kSlack, [&] { return released_ >= number; },
      [&] { return late_text({}, progress_now(), fmt::format("barrier '{}'", name), timeout()); });
}

std::string SideChannel::broadcast(std::string bytes) {
  std::unique_lock lock(mutex_);
  if (failed_) throw DeviceError(reason_);
  if (rank() == 0) {
    post_all(encode(MessageKind::blob, bytes));
    return bytes;
  }
  await(
      lock, timeout(), [&] { return !blobs_.empty(); },
      [&] { return late_text({0}, progress_now(), "a broadcast", timeout()); });
  std::string blob = std::move(blobs_.front());
  blobs_.pop_front();
  return blob;
}

void SideChannel::send_step(StepDescriptor step, std::span<const std::byte> payload) {
  SHUNT_CHECK(rank() == 0, "rank {} may not send steps", rank());
  BodyWriter body;
  const std::lock_guard lock(mutex_);
  if (failed_) throw DeviceError(reason_);
  step.sequence = next_step_++;
  body.value(step).text({reinterpret_cast<const char*>(payload.data()), payload.size()});
  post_all(encode(MessageKind::step, body.body()));
}

std::optional<StepDescriptor> SideChannel::receive_step(std::vector<std::byte>& payload,
                                                        Milliseconds wait) {
  SHUNT_CHECK(rank() != 0, "rank 0 sends steps");
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, CommClock::now() + wait, [&] { return failed_ || !steps_.empty(); });
  if (failed_) throw DeviceError(reason_);
  if (steps_.empty()) return std::nullopt;
  const StepDescriptor step = steps_.front().first;
  payload = std::move(steps_.front().second);
  steps_.pop_front();
  SHUNT_CHECK(step.sequence == next_step_, "step {} came where {} was due", step.sequence,
              next_step_);
  ++next_step_;
  return step;
}

std::vector<RankProgress> SideChannel::progress_now() const {
  std::vector<RankProgress> all = progress_;
  all[static_cast<size_t>(rank())] = own_progress_.get();
  return all;
}

std::vector<RankProgress> SideChannel::progress() const {
  const std::lock_guard lock(mutex_);
  return progress_now();
}

void SideChannel::fail(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  record(fmt::format("rank {} failed: {}", rank(), reason), nullptr);
}

void SideChannel::check() const {
  if (alive()) return;
  const std::lock_guard lock(mutex_);
  throw DeviceError(reason_);
}

void SideChannel::close() {
  if (size() == 1) return;
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return;
  }
  barrier(kClose);
}

// Never waits: what does not fit is left to the thread.
void SideChannel::post(Peer& peer, const std::string& message) {
  if (peer.gone) return;
  const bool queued = !peer.out.empty();
  peer.out.bytes += message;
  if (queued) return;
  if (!peer.socket.send(peer.out)) return lost(peer, "the connection broke");
  if (!peer.out.empty()) wake_up(wake_);
}

void SideChannel::post_all(const std::string& message) {
  for (Peer& peer : peers_) post(peer, message);
}

// Only the first failure counts; it goes on to everybody but the one who said it.
void SideChannel::record(const std::string& reason, const Peer* from) {
  if (failed_ || closing_) return;
  reason_ = reason;
  failed_ = true;
  callback_due_ = true;
  changed_.notify_all();
  wake_up(wake_);
  const std::string message = encode(MessageKind::failure, reason);
  for (Peer& peer : peers_)
    if (&peer != from) post(peer, message);
}

void SideChannel::lost(Peer& peer, const std::string& how) {
  if (peer.gone) return;
  peer.gone = true;
  peer.out = {};
  record(fmt::format("rank {} ({}) is gone: {}; it was at {}", peer.rank, peer.name, how,
                     progress_text(progress_[static_cast<size_t>(peer.rank)])),
         &peer);
}

void SideChannel::release_if_complete() {
  const uint64_t number = released_ + 1;
  int come = 0;
  for (const Arrival& arrival : arrived_) come += arrival.number >= number ? 1 : 0;
  if (come == 1) first_arrival_ = CommClock::now();
  if (come < size()) return;
  const std::string& name = arrived_[0].name;
  for (size_t r = 1; r < arrived_.size(); ++r)
    if (arrived_[r].name != name)
      return record(fmt::format("rank 0 is at barrier '{}', rank {} at barrier '{}'", name, r,
                                arrived_[r].name),
                    nullptr);
  BodyWriter body;
  body.value(number).text(name);
  std::vector<std::string> brought;
  for (const Arrival& arrival : arrived_) {
    body.text(arrival.bytes);
    brought.push_back(arrival.bytes);
  }
  post_all(encode(MessageKind::release, body.body()));
  released(name, std::move(brought));
}

void SideChannel::released(const std::string& name, std::vector<std::string> bytes) {
  ++released_;
  brought_ = std::move(bytes);
  // Here and not in close(): a peer may be gone before the caller's thread gets to run again.
  if (name == kClose && !failed_) closing_ = true;
  changed_.notify_all();
}

}  // namespace shunt
