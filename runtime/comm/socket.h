// TCP sockets that never block: what rendezvous.cpp and side_channel.cpp need of the system. All
// are closed on exec, so that a child process cannot keep a dead rank's connection open.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "runtime/comm/control.h"

namespace shunt {

/// Bytes on their way out.
struct Outbox {
  std::string bytes;
  size_t sent = 0;  // of them; removed now and then, not at every piece
  bool empty() const { return sent == bytes.size(); }
};

/// Owns a file descriptor.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();
  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

  /// Appends what has arrived to `in`, at most a megabyte: a peer that sends without end does not
  /// keep the caller from its other duties. False when the peer has closed the connection or it
  /// broke.
  bool receive(std::string& in);
  /// Sends as much as fits now, at most a megabyte. False when the connection broke.
  bool send(Outbox& out);

 private:
  int fd_ = -1;
};

/// Listens on rank 0's port: on loopback if `address` is a loopback address or "localhost", else on
/// all interfaces. DeviceError when the port is taken.
Socket listen_on(const std::string& address, int port);
/// A connection that is waiting, or an empty Socket.
Socket accept_from(const Socket& listener);
/// Tries until `deadline`, every 20 ms; an empty Socket when nobody answered. `problem` says why.
/// The name service is asked first, with limits of its own. UserError for an unknown host.
Socket connect_to(const std::string& address, int port, CommClock::time_point deadline,
                  std::string& problem);

/// A counter that wakes poll() (eventfd).
Socket make_wake_up();
void wake_up(const Socket& socket);
void clear_wake_up(const Socket& socket);

/// Milliseconds until then for poll(), rounded up; 0 if it has passed.
int poll_time(CommClock::time_point deadline);

/// A port of this machine that is free now. For tests and for ranks that one process starts.
int free_port();
/// "host, pid 123" of this process.
std::string own_name();

}  // namespace shunt
