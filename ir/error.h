// The three kinds of error Shunt throws, and the two helpers that throw them.
//
// UserError:     the input is wrong. The message names the file, key, tensor or flag and says what
// to do. InternalError: Shunt is wrong. The message carries file:line so that it can be reported.
// DeviceError:   CUDA, cuBLASLt, NCCL or a peer failed. The message names the call and the step.
//
// `shunt` maps them to exit codes (see docs/cli.md): UserError 2, its Kind::incompatible_plan 3,
// DeviceError 4, InternalError 70. Code 1 is reserved for "ran, and the answer is no" (`verify`).
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>

namespace shunt {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class UserError : public Error {
 public:
  enum class Kind { bad_input, incompatible_plan };
  explicit UserError(const std::string& what, Kind kind = Kind::bad_input)
      : Error(what), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

class InternalError : public Error {
 public:
  using Error::Error;
};

class DeviceError : public Error {
 public:
  using Error::Error;
};

/// Throws UserError with a formatted message.
template <class... Args>
[[noreturn]] void user_error(fmt::format_string<Args...> f, Args&&... args) {
  throw UserError(fmt::format(f, std::forward<Args>(args)...));
}

/// Throws UserError of kind incompatible_plan: the plan is well formed, but not for this program or
/// machine.
template <class... Args>
[[noreturn]] void plan_error(fmt::format_string<Args...> f, Args&&... args) {
  throw UserError(fmt::format(f, std::forward<Args>(args)...), UserError::Kind::incompatible_plan);
}

template <class... Args>
[[noreturn]] void internal_error(const char* file, int line, fmt::format_string<Args...> f,
                                 Args&&... args) {
  throw InternalError(fmt::format("internal error at {}:{}: {}", file, line,
                                  fmt::format(f, std::forward<Args>(args)...)));
}

/// Checks something that only a mistake in Shunt itself can make false.
#define SHUNT_CHECK(condition, ...)                                             \
  do {                                                                          \
    if (!(condition)) ::shunt::internal_error(__FILE__, __LINE__, __VA_ARGS__); \
  } while (false)

}  // namespace shunt
