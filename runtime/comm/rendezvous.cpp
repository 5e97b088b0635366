// How processes find each other: rank 0 collects a hello from every other rank, compares, and
// answers all. Entry point: rendezvous(). Tested by tests/runtime/comm/rendezvous_test.cpp.
#include "runtime/comm/rendezvous.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <utility>

#include "ir/error.h"
#include "runtime/comm/side_channel.h"
#include "runtime/comm/socket.h"
#include "runtime/comm/wire.h"

namespace shunt {

namespace {

constexpr Milliseconds kGrace{1'000};  // after a difference: for ranks that are about to come
constexpr Milliseconds kSlack{
    2'000};  // rank 0 knows who is missing, and its message should come first

/// How a rank introduces itself.
struct Hello {
  int32_t rank = 0, world = 0;
  std::string name;
  std::vector<HandshakeField> fields;
};

std::string encode_hello(const Hello& hello) {
  BodyWriter body;
  body.value(hello.rank).value(hello.world).text(hello.name).value<uint64_t>(hello.fields.size());
  for (const HandshakeField& field : hello.fields) body.text(field.name).text(field.value);
  return encode(MessageKind::hello, body.body());
}

std::optional<Hello> decode_hello(const std::string& bytes) {
  BodyReader body(bytes);
  Hello hello;
  hello.rank = body.value<int32_t>();
  hello.world = body.value<int32_t>();
  hello.name = body.text();
  const auto count = body.value<uint64_t>();
  for (uint64_t i = 0; i < count && body.ok(); ++i) {
    std::string name = body.text();
    hello.fields.push_back({std::move(name), body.text()});
  }
  return body.done() ? std::optional(std::move(hello)) : std::nullopt;
}

/// A connection that rank 0 has accepted.
struct Guest {
  Socket socket;
  MessageReader in;
  std::optional<Hello> hello;
};

std::string who(const Hello& hello) { return fmt::format("rank {} ({})", hello.rank, hello.name); }

std::string field_difference(const Hello& own, const Hello& other, size_t i) {
  const auto show = [i](const Hello& h) {
    return i < h.fields.size() ? fmt::format("{} {}", h.fields[i].name, h.fields[i].value)
                               : "nothing";
  };
  return show(own) == show(other)
             ? std::string()
             : fmt::format("{} differs from rank 0: {} there, {} here on rank 0", who(other),
                           show(other), show(own));
}

/// The first difference, in the order world size, rank, fields; empty if there is none.
std::string first_difference(const Hello& own, const std::vector<const Hello*>& others) {
  size_t fields = own.fields.size();
  for (const Hello* other : others) {
    fields = std::max(fields, other->fields.size());
    if (other->world != own.world)
      return fmt::format("{} differs from rank 0: world size {} there, {} here on rank 0",
                         who(*other), other->world, own.world);
  }
  for (size_t i = 0; i < others.size(); ++i) {
    if (others[i]->rank <= 0 || others[i]->rank >= own.world)
      return fmt::format("{} is not one of ranks 1 to {}{}", who(*others[i]), own.world - 1,
                         others[i]->rank == 0 ? ", and rank 0 is there already" : "");
    if (i > 0 && others[i - 1]->rank == others[i]->rank)
      return fmt::format("two processes are rank {}: {} and {}", others[i]->rank,
                         others[i - 1]->name, others[i]->name);
  }
  for (size_t i = 0; i < fields; ++i)
    for (const Hello* other : others)
      if (std::string text = field_difference(own, *other, i); !text.empty()) return text;
  return {};
}

/// Rank 0's side.
class Host {
 public:
  Host(const RendezvousOptions& options, Hello own)
      : options_(options), own_(std::move(own)), deadline_(CommClock::now() + options.timeout) {}

  std::vector<SideChannel::Peer> collect() {
    const Socket listener = listen_on(options_.address, options_.port);
    std::string difference;
    while (!complete() && CommClock::now() < deadline_) {
      wait(listener);
      if (difference.empty()) {
        difference = first_difference(own_, hellos());
        if (!difference.empty()) deadline_ = std::min(deadline_, CommClock::now() + kGrace);
      }
    }
    // Again, over all that came: every rank order gives the same message.
    difference = first_difference(own_, hellos());
    if (!difference.empty()) refuse(MessageKind::refuse_user, difference);
    if (const auto missing = missing_ranks(); !missing.empty())
      refuse(
          MessageKind::refuse_device,
          fmt::format("{} did not arrive at the rendezvous at {}:{} within {}", ranks_text(missing),
                      options_.address, options_.port, seconds_text(options_.timeout)));
    return welcome();
  }

 private:
  /// By rank.
  std::vector<const Hello*> hellos() const {
    std::vector<const Hello*> all;
    for (const Guest& guest : guests_)
      if (guest.hello) all.push_back(&*guest.hello);
    std::stable_sort(all.begin(), all.end(),
                     [](const Hello* a, const Hello* b) { return a->rank < b->rank; });
    return all;
  }

  /// Nobody else is to come. Ranks with another world size may have companions that rank 0 does not
  /// count.
  bool complete() const {
    for (const Hello* hello : hellos())
      if (hello->world != own_.world) return false;
    return missing_ranks().empty();
  }

  std::vector<int> missing_ranks() const {
    std::vector<int> missing;
    const auto all = hellos();
    for (int r = 1; r < own_.world; ++r)
      if (std::none_of(all.begin(), all.end(), [r](const Hello* h) { return h->rank == r; }))
        missing.push_back(r);
    return missing;
  }

  void wait(const Socket& listener) {
    std::vector<pollfd> ready{{listener.fd(), POLLIN, 0}};
    for (const Guest& guest : guests_) ready.push_back({guest.socket.fd(), POLLIN, 0});
    ::poll(ready.data(), ready.size(), poll_time(deadline_));
    for (size_t i = 0; i < guests_.size(); ++i)
      if (ready[i + 1].revents != 0) read(guests_[i]);
    std::erase_if(guests_, [](const Guest& guest) { return !guest.socket; });
    if (ready[0].revents == 0) return;
    while (Socket socket = accept_from(listener)) {
      guests_.push_back({std::move(socket), {}, std::nullopt});
      guests_.back().in.max_size = kMaxHello;
    }
  }

  void read(Guest& guest) {
    const bool open = guest.socket.receive(guest.in.bytes);
    const auto message = guest.hello ? std::nullopt : guest.in.next();
    if (message && message->kind == MessageKind::hello) guest.hello = decode_hello(message->body);
    if (guest.hello && !open)
      refuse(MessageKind::refuse_device,
             fmt::format("{} died during the rendezvous", who(*guest.hello)));
    // Somebody else's program, or a scan of ports: no business of ours.
    if (!open || (message && !guest.hello) || guest.in.broken()) guest.socket = Socket();
  }

  [[noreturn]] void refuse(MessageKind kind, const std::string& text) {
    for (Guest& guest : guests_) {
      Outbox out{encode(kind, text)};
      guest.socket.send(out);  // who cannot be told finds the connection closed
    }
    if (kind == MessageKind::refuse_user) throw UserError(text);
    throw DeviceError(text);
  }

  std::vector<SideChannel::Peer> welcome() {
    std::vector<SideChannel::Peer> peers;
    for (Guest& guest : guests_) {
      if (!guest.hello) continue;
      Outbox out{encode(MessageKind::welcome, own_.name)};
      guest.socket.send(out);  // if it broke, the side channel is about to find out
      peers.push_back({.rank = guest.hello->rank,
                       .name = guest.hello->name,
                       .socket = std::move(guest.socket),
                       .in = std::move(guest.in),
                       .out = {}});
    }
    std::sort(peers.begin(), peers.end(),
              [](const auto& a, const auto& b) { return a.rank < b.rank; });
    return peers;
  }

  const RendezvousOptions& options_;
  Hello own_;
  CommClock::time_point deadline_;
  std::vector<Guest> guests_;
};

/// The others' side: rank 0 as the only peer.
std::vector<SideChannel::Peer> join(const RendezvousOptions& options, const Hello& own) {
  const auto deadline = CommClock::now() + options.timeout;
  std::string problem;
  SideChannel::Peer root;
  root.socket = connect_to(options.address, options.port, deadline, problem);
  const std::string where = fmt::format("rank 0 at {}:{}", options.address, options.port);
  if (!root.socket)
    throw DeviceError(fmt::format("rank {}: {} did not answer within {} ({})", own.rank, where,
                                  seconds_text(options.timeout), problem));
  Outbox out{encode_hello(own)};
  bool open = root.socket.send(out) && out.empty();
  while (open && CommClock::now() < deadline + kSlack) {
    pollfd ready{root.socket.fd(), POLLIN, 0};
    ::poll(&ready, 1, poll_time(deadline + kSlack));
    open = root.socket.receive(root.in.bytes);
    const auto message = root.in.next();
    if (root.in.broken()) break;
    if (!message) continue;
    if (message->kind == MessageKind::refuse_user) throw UserError(message->body);
    if (message->kind == MessageKind::refuse_device) throw DeviceError(message->body);
    if (message->kind != MessageKind::welcome) break;
    root.name = message->body;
    std::vector<SideChannel::Peer> peers;
    peers.push_back(std::move(root));
    return peers;
  }
  if (!open)
    throw DeviceError(fmt::format("rank {}: {} died during the rendezvous", own.rank, where));
  throw DeviceError(
      fmt::format("rank {}: {}", own.rank,
                  root.in.broken() ? where + " is no rank 0 of this program: is the port another's?"
                                   : where + " did not finish the rendezvous in time"));
}

}  // namespace

std::unique_ptr<ControlChannel> rendezvous(const RendezvousOptions& options) {
  SHUNT_CHECK(options.world > 0 && options.rank >= 0 && options.rank < options.world,
              "rank {} of {}", options.rank, options.world);
  const Hello own{options.rank, options.world, own_name(), options.fields};
  std::vector<SideChannel::Peer> peers;
  if (options.world > 1)
    peers = options.rank == 0 ? Host(options, own).collect() : join(options, own);
  return std::make_unique<SideChannel>(options, std::move(peers));
}

}  // namespace shunt
