// A cursor over one line of .mir text. Every failure is a UserError "line N: expected X at '...'".
#pragma once

#include <string>
#include <string_view>

#include "ir/types.h"

namespace shunt::ir {

class Lexer {
 public:
  Lexer(std::string_view line, int number) : text_(line), line_(number) {}

  [[noreturn]] void fail(std::string_view expected) const;
  /// The next character after spaces; '\0' at the end of the line or at a "//" comment.
  char peek();
  bool at_end() { return peek() == '\0'; }
  bool eat(char c);
  bool eat(std::string_view word);
  void expect(char c);
  /// Letters, digits, '_' and '.' ("hidden.3", "rms_norm").
  std::string word();
  /// word() after the sigil.
  std::string name(char sigil);
  std::string string();
  int64_t integer();
  double real();
  DType dtype();
  Dim dim();
  Type type();
  int line() const { return line_; }

 private:
  std::string_view text_;
  size_t i_ = 0;
  int line_;
};

}  // namespace shunt::ir
