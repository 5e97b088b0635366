// Messages of the rendezvous and the side channel: a header of 16 bytes, then `size` bytes.
// Integers are as in memory (ranks run the same program on the same kind of machine; the magic
// number, which holds the format's version, would differ otherwise). What arrives is checked: a
// wrong magic, kind or size ends the connection.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

namespace shunt {

enum class MessageKind : uint32_t {
  hello,          // a rank introduces itself (handshake)
  welcome,        // all agree
  refuse_user,    // handshake failed: the text of a UserError
  refuse_device,  // the same, of a DeviceError
  heartbeat,      // RankProgress of the sender; from rank 0, of all ranks
  arrive,         // at a barrier: number, name, and what the rank brings
  release,        // of a barrier: number, name, and what every rank brought
  blob,           // of a broadcast: number and bytes
  step,           // a StepDescriptor and the payload
  failure,        // text
};

struct MessageHeader {
  static constexpr uint32_t kMagic =
      0x53485432;  // "SHT2": the format's version is its last character
  uint32_t magic = kMagic;
  MessageKind kind = MessageKind::hello;
  uint64_t size = 0;
};

struct Message {
  MessageKind kind = MessageKind::hello;
  std::string body;
};

inline constexpr uint64_t kMaxMessage = 256u
                                        << 20;   // a step's payload: far above any batch's inputs
inline constexpr uint64_t kMaxHello = 1u << 20;  // before a peer has shown who it is

inline std::string encode(MessageKind kind, std::string_view body) {
  const MessageHeader header{.kind = kind, .size = body.size()};
  std::string out(sizeof header + body.size(), '\0');
  std::memcpy(out.data(), &header, sizeof header);
  if (!body.empty()) std::memcpy(out.data() + sizeof header, body.data(), body.size());
  return out;
}

/// Takes complete messages off the front of a stream of bytes.
class MessageReader {
 public:
  std::string bytes;  // append what arrives
  uint64_t max_size = kMaxMessage;

  /// nullopt: not complete yet, or broken().
  std::optional<Message> next() {
    MessageHeader header;
    const size_t left = bytes.size() - taken_;
    if (broken_ || left < sizeof header) return compact();
    std::memcpy(&header, bytes.data() + taken_, sizeof header);
    if (header.magic != MessageHeader::kMagic || header.kind > MessageKind::failure ||
        header.size > max_size) {
      broken_ = true;
      return std::nullopt;
    }
    const size_t total = sizeof header + static_cast<size_t>(header.size);
    if (left < total) {
      compact();
      bytes.reserve(total);
      return std::nullopt;
    }
    Message message{header.kind,
                    bytes.substr(taken_ + sizeof header, static_cast<size_t>(header.size))};
    taken_ += total;
    return message;
  }
  /// What arrived is no message of ours.
  bool broken() const { return broken_; }

 private:
  std::nullopt_t compact() {
    bytes.erase(0, taken_);
    taken_ = 0;
    return std::nullopt;
  }
  size_t taken_ = 0;  // bytes of messages that were returned
  bool broken_ = false;
};

/// Values and strings one after another in a body.
class BodyWriter {
 public:
  template <class T>
  BodyWriter& value(const T& v) {
    static_assert(std::is_trivially_copyable_v<T>);
    body_.append(reinterpret_cast<const char*>(&v), sizeof v);
    return *this;
  }
  BodyWriter& text(std::string_view t) {
    value<uint64_t>(t.size());
    body_.append(t);
    return *this;
  }
  const std::string& body() const { return body_; }

 private:
  std::string body_;
};

/// The inverse. After a read past the end, ok() is false and values are zero.
class BodyReader {
 public:
  explicit BodyReader(std::string_view body) : left_(body) {}
  template <class T>
  T value() {
    static_assert(std::is_trivially_copyable_v<T>);
    T v{};
    const std::string_view bytes = take(sizeof v);
    if (bytes.size() == sizeof v) std::memcpy(&v, bytes.data(), sizeof v);
    return v;
  }
  std::string text() { return std::string(take(value<uint64_t>())); }
  std::string_view rest() { return take(left_.size()); }
  bool ok() const { return ok_; }
  /// ok(), and nothing is left.
  bool done() const { return ok_ && left_.empty(); }

 private:
  std::string_view take(uint64_t n) {
    if (n > left_.size()) {
      ok_ = false;
      left_ = {};
      return {};
    }
    const std::string_view bytes = left_.substr(0, static_cast<size_t>(n));
    left_.remove_prefix(static_cast<size_t>(n));
    return bytes;
  }
  std::string_view left_;
  bool ok_ = true;
};

}  // namespace shunt
