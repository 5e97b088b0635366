// Printing and parsing attribute values, derived from each struct's fields() list. Used by
// ir/text.cpp and frontends/describe.cpp.
#pragma once

#include <fmt/format.h>

#include <charconv>
#include <string>
#include <type_traits>

#include "ir/attrs.h"
#include "ir/error.h"
#include "ir/lexer.h"

namespace shunt::ir {

/// A string literal with \" and \\ escaped.
inline std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

template <class T>
std::string print_attr(const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return quoted(value);
  } else if constexpr (std::is_same_v<T, DType>) {
    return std::string(dtype_name(value));
  } else if constexpr (std::is_same_v<T, Dim>) {
    return value.to_string();
  } else if constexpr (std::is_enum_v<T>) {
    return std::string(enum_names(T{})[static_cast<size_t>(value)]);
  } else if constexpr (std::is_arithmetic_v<T>) {
    return fmt::format("{}", value);
  } else {  // a vector of the above
    std::string out;
    for (const auto& v : value) out += (out.empty() ? "" : ", ") + print_attr(v);
    return "[" + out + "]";
  }
}

template <class T>
void parse_attr(Lexer& lexer, T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    const std::string word = lexer.word();
    if (word != "true" && word != "false") lexer.fail("true or false");
    value = word == "true";
  } else if constexpr (std::is_same_v<T, std::string>) {
    value = lexer.string();
  } else if constexpr (std::is_same_v<T, DType>) {
    value = lexer.dtype();
  } else if constexpr (std::is_same_v<T, Dim>) {
    value = lexer.dim();
  } else if constexpr (std::is_enum_v<T>) {
    const std::string word = lexer.word();
    const auto names = enum_names(T{});
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] == word) {
        value = static_cast<T>(i);
        return;
      }
    }
    lexer.fail("one of the attribute's values");
  } else if constexpr (std::is_integral_v<T>) {
    value = lexer.integer();
  } else if constexpr (std::is_floating_point_v<T>) {
    value = lexer.real();
  } else {
    lexer.expect('[');
    value.clear();
    while (!lexer.eat(']')) {
      if (!value.empty()) lexer.expect(',');
      parse_attr(lexer, value.emplace_back());
    }
  }
}

}  // namespace shunt::ir
