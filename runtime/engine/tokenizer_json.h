// A value of tokenizer.json that knows its file and path, so that every complaint about it can name
// them.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "ir/error.h"

namespace shunt::tokenizer {

/// A view: the json and the file name must outlive it.
class Node {
 public:
  Node(const nlohmann::json& value, const std::string& file, std::string path)
      : value_(&value), file_(&file), path_(std::move(path)) {}

  const nlohmann::json& json() const { return *value_; }
  bool is_null() const { return value_->is_null(); }
  /// "tokenizer.json: pre_tokenizer.pattern", to begin an error with.
  std::string where() const;

  /// Member `key` of this object; null if it is absent.
  Node get(std::string_view key) const;
  /// Elements of this array.
  std::vector<Node> items() const;
  /// The member "type" of this object, which says what kind of part it is.
  std::string kind() const { return get("type").string(); }

  std::string string() const;
  bool boolean() const;
  /// `fallback` where the key is absent or null: the format's own default.
  bool boolean_or(bool fallback) const { return is_null() ? fallback : boolean(); }
  double number() const;
  /// 0 .. kMaxCount.
  size_t count() const;
  /// One character.
  char32_t character() const;
  /// An id: 0 .. kMaxId.
  int32_t id() const;

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> f, Args&&... args) const {
    fail_text(fmt::format(f, std::forward<Args>(args)...));
  }
  /// For a legal file that asks for something Shunt does not have; `what` names it.
  [[noreturn]] void unsupported(std::string_view what) const;

 private:
  [[noreturn]] void fail_text(const std::string& what) const;

  const nlohmann::json* value_;
  const std::string* file_;
  std::string path_;  // "pre_tokenizer.pretokenizers[1]"
};

constexpr size_t kMaxCount = 1'000'000'000;
constexpr int32_t kMaxId = (1 << 21) - 1;  // bounds the tables that a file can make us allocate

}  // namespace shunt::tokenizer
