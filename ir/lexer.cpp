// The cursor of ir/lexer.h. Tested by tests/ir/mir_test.cpp.
#include "ir/lexer.h"

#include <charconv>

#include "ir/error.h"

namespace shunt::ir {

namespace {
bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.'; }
}  // namespace

void Lexer::fail(std::string_view expected) const {
  user_error("line {}, column {}: expected {} at '{}'", line_, i_ + 1, expected,
             text_.substr(std::min(i_, text_.size()), 40));
}

char Lexer::peek() {
  while (i_ < text_.size() && (text_[i_] == ' ' || text_[i_] == '\t' || text_[i_] == '\r')) ++i_;
  if (i_ >= text_.size() || text_.substr(i_).starts_with("//")) return '\0';
  return text_[i_];
}

bool Lexer::eat(char c) {
  if (peek() != c) return false;
  ++i_;
  return true;
}

bool Lexer::eat(std::string_view word) {
  peek();
  if (!text_.substr(i_).starts_with(word)) return false;
  const size_t end = i_ + word.size();
  if (end < text_.size() && is_word(text_[end])) return false;
  i_ = end;
  return true;
}

void Lexer::expect(char c) {
  if (!eat(c)) fail(std::string("'") + c + "'");
}

std::string Lexer::word() {
  peek();
  const size_t start = i_;
  while (i_ < text_.size() && is_word(text_[i_])) ++i_;
  if (i_ == start) fail("a name");
  return std::string(text_.substr(start, i_ - start));
}

std::string Lexer::name(char sigil) {
  expect(sigil);
  return word();
}

std::string Lexer::string() {
  expect('"');
  std::string out;
  for (; i_ < text_.size() && text_[i_] != '"'; ++i_) {
    if (text_[i_] == '\\' && ++i_ >= text_.size()) break;
    out += text_[i_];
  }
  if (i_ >= text_.size()) fail("'\"'");
  ++i_;
  return out;
}

int64_t Lexer::integer() {
  peek();
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text_.data() + i_, text_.data() + text_.size(), value);
  if (error != std::errc()) fail("an integer");
  i_ = end - text_.data();
  return value;
}

double Lexer::real() {
  peek();
  double value = 0;
  const auto [end, error] = std::from_chars(text_.data() + i_, text_.data() + text_.size(), value);
  if (error != std::errc()) fail("a number");
  i_ = end - text_.data();
  return value;
}

DType Lexer::dtype() {
  const size_t start = i_;
  const auto found = parse_dtype(word());
  if (!found) {
    i_ = start;
    fail("an element type (f32, f16, bf16, i64, i32, u8, f8e4m3)");
  }
  return *found;
}

Dim Lexer::dim() {
  peek();
  const size_t start = i_;
  while (i_ < text_.size() &&
         (is_word(text_[i_]) || text_[i_] == '*' || text_[i_] == '+' || text_[i_] == '-')) {
    ++i_;
  }
  if (i_ == start) fail("a size");
  try {
    return Dim::parse(text_.substr(start, i_ - start));
  } catch (const UserError&) {
    i_ = start;
    fail("a size");
  }
}

Type Lexer::type() {
  Type type{dtype(), {}};
  expect('[');
  while (!eat(']')) {
    if (!type.shape.empty()) expect(',');
    type.shape.push_back(dim());
  }
  return type;
}

}  // namespace shunt::ir
