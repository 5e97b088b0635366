// Ranks as processes: they find each other over TCP, make sure that they are to run the same thing,
// and keep a control channel that notices within a moment when one of them dies.
//
//   RendezvousOptions options{.rank = r, .world = n, .address = "10.0.0.7", .port = 29531, .timeout
//   = 30 s}; options.fields = {{"program version", "0.1.0"}, {"plan", digest}, {"rank map", map},
//   {"NCCL version", "2.28.9"}}; std::unique_ptr<ControlChannel> control = rendezvous(options);
//
// Rank 0 listens, the others connect to it; all that follows goes over these connections. A process
// that is killed, or whose machine closes its sockets, is noticed at once; one that is frozen or
// unreachable after `silence`. Anybody who reaches the port can take part, as with NCCL and torch:
// it belongs on a trusted network.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/comm/control.h"

namespace shunt {

/// Something that must be the same on all ranks.
struct HandshakeField {
  std::string name;   // "plan"
  std::string value;  // a digest, a version, ...
};

struct RendezvousOptions {
  int rank = 0;
  int world = 1;
  std::string address;  // of rank 0
  int port = 0;
  Milliseconds timeout{
      30'000};  // to find each other, and of each later wait (ControlChannel::timeout)
  Milliseconds heartbeat{250};  // how often a rank shows that it lives, and where it stands
  Milliseconds silence{3'000};  // without a sign, a rank counts as lost
  std::vector<HandshakeField> fields{};  // names and their order must be the same too
};

/// Returns when all ranks are connected and agree. Starts one thread, which the result ends.
///
/// UserError, the same on all ranks, for the first difference (in the order world size, fields;
/// then by rank): "rank 2 (host, pid 123) differs from rank 0: plan is a1b2 there and c3d4 here";
/// also for two processes of one rank. DeviceError for ranks that did not come, or died meanwhile.
/// Rank 0 reports a difference within a second: it waits at most that long for those who are about
/// to come, so that they hear of it too.
std::unique_ptr<ControlChannel> rendezvous(const RendezvousOptions& options);

}  // namespace shunt
