// Non-blocking TCP over the system's calls. Tested by tests/runtime/comm/rendezvous_test.cpp.
#include "runtime/comm/socket.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>
#include <thread>

#include "ir/error.h"

namespace shunt {

namespace {

constexpr size_t kTurn = 1u << 20;  // bytes that one receive() or send() moves at most

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses resolve(const char* host, int port, int family, int flags) {
  addrinfo hints{};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* result = nullptr;
  const int status = getaddrinfo(host, std::to_string(port).c_str(), &hints, &result);
  if (status != 0)
    user_error(
        "the address of rank 0, \"{}\", is not known here ({}): correct MASTER_ADDR or "
        "--master-addr",
        host == nullptr ? "any" : host, gai_strerror(status));
  return {result, &freeaddrinfo};
}

std::string last_error() { return std::strerror(errno); }

void set_option(const Socket& socket, int level, int option) {
  const int on = 1;
  setsockopt(socket.fd(), level, option, &on, sizeof on);
}

Socket make_socket(int family) {
  Socket socket(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) throw DeviceError(fmt::format("socket: {}", last_error()));
  return socket;
}

/// On loopback the system may give a connection the very port it connects to, and TCP then connects
/// it to itself.
bool talks_to_itself(const Socket& socket) {
  sockaddr_storage own{}, peer{};
  socklen_t own_size = sizeof own, peer_size = sizeof peer;
  return ::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&own), &own_size) == 0 &&
         ::getpeername(socket.fd(), reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0 &&
         own_size == peer_size && std::memcmp(&own, &peer, own_size) == 0;
}

/// One attempt at one address; an empty Socket and `problem` when it fails.
Socket try_connect(const addrinfo& to, CommClock::time_point deadline, std::string& problem) {
  Socket socket = make_socket(to.ai_family);
  if (::connect(socket.fd(), to.ai_addr, to.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) {
      problem = last_error();
      return {};
    }
    pollfd ready{socket.fd(), POLLOUT, 0};
    if (::poll(&ready, 1, poll_time(deadline)) <= 0) {
      problem = "no answer";
      return {};
    }
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
      problem = std::strerror(error);
      return {};
    }
  }
  if (talks_to_itself(socket)) {
    problem = "nobody listens";
    return {};
  }
  set_option(socket, IPPROTO_TCP, TCP_NODELAY);
  return socket;
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

bool Socket::receive(std::string& in) {
  char buffer[65536];
  for (size_t received = 0; received < kTurn;) {
    const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    if (n > 0) {
      in.append(buffer, static_cast<size_t>(n));
      received += static_cast<size_t>(n);
    } else if (n == 0) {
      return false;
    } else if (errno != EINTR) {
      return errno == EAGAIN || errno == EWOULDBLOCK;
    }
  }
  return true;
}

bool Socket::send(Outbox& out) {
  bool fine = true;
  for (const size_t end = std::min(out.bytes.size(), out.sent + kTurn); out.sent < end;) {
    const ssize_t n = ::send(fd_, out.bytes.data() + out.sent, end - out.sent, MSG_NOSIGNAL);
    if (n >= 0) {
      out.sent += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      fine = errno == EAGAIN || errno == EWOULDBLOCK;
      break;
    }
  }
  if (out.empty() || out.sent > out.bytes.size() / 2) {
    out.bytes.erase(0, out.sent);
    out.sent = 0;
  }
  return fine;
}

Socket listen_on(const std::string& address, int port) {
  const bool loopback = address == "localhost" || address == "::1" || address.starts_with("127.");
  const Addresses named = resolve(address.c_str(), port, AF_UNSPEC, 0);
  // Where a host's own name means loopback (/etc/hosts of some systems), other machines still must
  // get in.
  const Addresses any = resolve(nullptr, port, named->ai_family, AI_PASSIVE);
  const addrinfo& to = loopback ? *named : *any;
  Socket socket = make_socket(to.ai_family);
  set_option(socket, SOL_SOCKET, SO_REUSEADDR);
  if (::bind(socket.fd(), to.ai_addr, to.ai_addrlen) != 0 || ::listen(socket.fd(), 1024) != 0)
    throw DeviceError(
        fmt::format("rank 0 cannot listen on port {}: {}; choose another with MASTER_PORT or "
                    "--master-port",
                    port, last_error()));
  return socket;
}

Socket accept_from(const Socket& listener) {
  Socket socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket) set_option(socket, IPPROTO_TCP, TCP_NODELAY);
  return socket;
}

Socket connect_to(const std::string& address, int port, CommClock::time_point deadline,
                  std::string& problem) {
  const Addresses addresses = resolve(address.c_str(), port, AF_UNSPEC, 0);
  while (true) {
    for (const addrinfo* to = addresses.get(); to != nullptr; to = to->ai_next) {
      Socket socket = try_connect(*to, deadline, problem);
      if (socket) return socket;
    }
    if (CommClock::now() >= deadline) return {};
    std::this_thread::sleep_for(Milliseconds(20));
  }
}

Socket make_wake_up() {
  Socket socket(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!socket) throw DeviceError(fmt::format("eventfd: {}", last_error()));
  return socket;
}

void wake_up(const Socket& socket) {
  const uint64_t one = 1;
  // Fails only when the counter is full, and then poll() wakes anyway.
  [[maybe_unused]] const ssize_t n = ::write(socket.fd(), &one, sizeof one);
}

void clear_wake_up(const Socket& socket) {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = ::read(socket.fd(), &count, sizeof count);
}

int poll_time(CommClock::time_point deadline) {
  const auto left = std::chrono::ceil<Milliseconds>(deadline - CommClock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000));
}

int free_port() {
  const Socket socket = make_socket(AF_INET);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* any = reinterpret_cast<sockaddr*>(&address);
  if (::bind(socket.fd(), any, size) != 0 || ::getsockname(socket.fd(), any, &size) != 0)
    throw DeviceError(fmt::format("no free port: {}", last_error()));
  return ntohs(address.sin_port);
}

std::string own_name() {
  char host[256] = "?";
  gethostname(host, sizeof host - 1);
  return fmt::format("{}, pid {}", host, getpid());
}

}  // namespace shunt
