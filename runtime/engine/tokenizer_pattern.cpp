// Rewrites Oniguruma patterns for PCRE2. Entry point: translate_pattern(). Only syntax whose
// meaning is known to be the same in both passes; where they differ the text is rewritten or
// refused. Tested by tests/runtime/tokenizer_regex_test.cpp.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "ir/error.h"
#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_regex.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

constexpr size_t kMaxPattern = 16'384;  // bytes; real ones have a few hundred
// What Oniguruma takes for a word character; PCRE2's own \w lacks marks. Outside of a class \w also
// matches six Latin-1 superscripts and fractions, within one it does not.
constexpr std::string_view kWordInClass = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view kWord =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

/// Name of a property in PCRE2. Categories have one or two letters in both; \p{Han} is the script
/// in Oniguruma but the script extensions in PCRE2.
std::string property_name(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kLong = {
      {{"Letter", "L"},
       {"Mark", "M"},
       {"Number", "N"},
       {"Punctuation", "P"},
       {"Symbol", "S"},
       {"Separator", "Z"},
       {"Other", "C"},
       {"Uppercase_Letter", "Lu"},
       {"Lowercase_Letter", "Ll"},
       {"Titlecase_Letter", "Lt"},
       {"Modifier_Letter", "Lm"},
       {"Other_Letter", "Lo"},
       {"Decimal_Number", "Nd"},
       {"Nonspacing_Mark", "Mn"}}};
  for (const auto& [from, to] : kLong) {
    if (name == from) return std::string(to);
  }
  const bool same = name.size() <= 2 || name == "Any" || name == "Alphabetic" ||
                    name == "White_Space" || name == "Uppercase" || name == "Lowercase" ||
                    name == "Emoji" || name == "Ideographic";
  return same ? std::string(name) : fmt::format("sc:{}", name);
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    if (in_.starts_with("(?i)")) {
      caseless_ = true;
      take(4);
    }
    while (at_ < in_.size()) item();
    if (!groups_.empty()) refuse("a group that is not closed");
    return out_;
  }

 private:
  static constexpr size_t kNothing = std::string::npos;
  struct Group {
    size_t start;  // in out_
    bool assertion;
    bool outer_caseless;
  };

  [[noreturn]] void refuse(std::string_view what) const {
    user_error(
        "{}: the regular expression {} has {}, which Shunt does not read; pass ids (--ids) instead "
        "of text",
        where_, quote_name(in_), what);
  }

  std::string_view rest() const { return in_.substr(at_); }
  bool next_is(char c) const { return at_ < in_.size() && in_[at_] == c; }
  /// Copies `n` bytes.
  void take(size_t n) {
    out_ += in_.substr(at_, n);
    at_ += n;
  }
  /// Skips `n` bytes of the pattern and writes `text` instead.
  void replace(size_t n, std::string_view text) {
    out_ += text;
    at_ += n;
  }

  void item() {
    const char c = in_[at_];
    const size_t start = out_.size();
    switch (c) {
      case '\\': escape(false); return;
      case '[': char_class(); break;
      case '(': open_group(); return;
      case ')': close_group(); return;
      case '*':
      case '+':
      case '?': quantifier(1); return;
      case '{': braces(); return;
      case '|':
      case '^':
      case '$':
        take(1);
        atom_ = kNothing;
        return;
      default: take(utf8_step(rest()).length);
    }
    atom_ = start;
  }

  void open_group() {
    constexpr std::array<std::string_view, 6> kKinds = {"(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!"};
    groups_.push_back({out_.size(), false, caseless_});
    atom_ = kNothing;
    if (rest().starts_with("(?i:")) {
      caseless_ = true;
      return take(4);
    }
    for (std::string_view kind : kKinds) {
      if (!rest().starts_with(kind)) continue;
      groups_.back().assertion = kind.size() == 4 || kind == "(?=" || kind == "(?!";
      return take(kind.size());
    }
    if (rest().starts_with("(?") || rest().starts_with("(*")) refuse("a group of an unusual kind");
    take(1);
  }

  void close_group() {
    if (groups_.empty()) refuse("a ')' without '('");
    take(1);
    atom_ = groups_.back().assertion ? kNothing : groups_.back().start;
    caseless_ = groups_.back().outer_caseless;
    groups_.pop_back();
  }

  /// A quantifier of `n` bytes and its lazy or possessive mark.
  void quantifier(size_t n) {
    if (atom_ == kNothing) refuse("a quantifier with nothing to repeat");
    take(n);
    if (next_is('?') || next_is('+')) take(1);
    atom_ = kNothing;
  }

  void braces() {
    size_t end = 1;
    auto digits = [&] {
      const size_t first = end;
      while (end < rest().size() && is_digit(rest()[end])) ++end;
      return end > first;
    };
    const bool low = digits();
    bool range = false;
    if (low && end < rest().size() && rest()[end] == ',') {
      range = true;
      ++end;
      digits();
    }
    if (!low || end >= rest().size() || rest()[end] != '}')
      refuse("a '{' that is no plain quantifier");
    ++end;
    const char mark = end < rest().size() ? rest()[end] : '\0';
    if (mark == '?' && !range) refuse("a '{n}?'");
    if (mark != '+') return quantifier(end);

    // Possessive in PCRE2; in Oniguruma a second quantifier around the first.
    if (atom_ == kNothing) refuse("a quantifier with nothing to repeat");
    out_.insert(atom_, "(?:");
    take(end);
    replace(1, ")+");
    if (next_is('?') || next_is('+') || next_is('*')) refuse("too many quantifiers in a row");
    atom_ = kNothing;
  }

  void char_class() {
    take(1);
    if (next_is('^')) take(1);
    if (next_is(']')) refuse("a class that starts with ']'");
    while (!next_is(']')) {
      if (at_ >= in_.size()) refuse("a class that is not closed");
      if (in_[at_] == '[') refuse("a '[' within a class");
      if (rest().starts_with("&&")) refuse("'&&' within a class");
      if (in_[at_] == '\\') {
        escape(true);
      } else {
        take(utf8_step(rest()).length);
      }
    }
    take(1);
  }

  void escape(bool in_class) {
    if (at_ + 1 >= in_.size()) refuse("a '\\' at its end");
    const char c = in_[at_ + 1];
    const size_t start = out_.size();
    bool assertion = false;
    switch (c) {
      case 's': replace(2, R"(\p{White_Space})"); break;
      case 'S': replace(2, R"(\P{White_Space})"); break;
      case 'd': replace(2, R"(\p{Nd})"); break;
      case 'D': replace(2, R"(\P{Nd})"); break;
      case 'w':
        replace(2, in_class ? std::string(kWordInClass) : fmt::format("[{}]", kWord));
        break;
      case 'W':
        if (in_class) refuse("'\\W' within a class");
        replace(2, fmt::format("[^{}]", kWord));
        break;
      case 'n':
      case 'r':
      case 't':
      case 'f': take(2); break;
      case 'v': replace(2, R"(\x{0b})"); break;
      case 'x':
      case 'u': code_point(); break;
      case 'p':
      case 'P': property(); break;
      case 'A':
      case 'z':
      case 'Z':
        if (in_class) refuse(fmt::format("'\\{}' within a class", c));
        assertion = true;
        take(2);
        break;
      default:
        if (is_letter(c) || is_digit(c)) refuse(fmt::format("'\\{}'", c));
        take(1);
        take(utf8_step(rest()).length);
    }
    if (!in_class) atom_ = assertion ? kNothing : start;
  }

  /// \xHH, \x{H...} or \uHHHH.
  void code_point() {
    const bool braced = in_[at_ + 1] == 'x' && at_ + 2 < in_.size() && in_[at_ + 2] == '{';
    const size_t first = at_ + (braced ? 3 : 2);
    const size_t limit = braced ? 6 : (in_[at_ + 1] == 'x' ? 2 : 4);
    size_t n = 0;
    while (n < limit && first + n < in_.size() && is_hex(in_[first + n])) ++n;
    const bool closed = !braced || (first + n < in_.size() && in_[first + n] == '}');
    if (n == 0 || !closed || (!braced && n != limit)) refuse("an incomplete '\\x' or '\\u'");
    const std::string digits(in_.substr(first, n));
    // In Oniguruma \x80 and above are bytes, not characters.
    if (!braced && limit == 2 && digits[0] > '7') refuse("a byte written '\\xHH'");
    replace(first + n + (braced ? 1 : 0) - at_, fmt::format("\\x{{{}}}", digits));
  }

  /// \p{Name}, \p{^Name}, \P{Name}.
  void property() {
    const size_t open = at_ + 2;
    const size_t close = in_.find('}', open);
    if (open >= in_.size() || in_[open] != '{' || close == std::string_view::npos)
      refuse("a '\\p' without '{...}'");
    std::string_view name = in_.substr(open + 1, close - open - 1);
    bool negated = in_[at_ + 1] == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    const bool plain =
        !name.empty() && std::ranges::all_of(name, [](char c) { return is_letter(c) || c == '_'; });
    if (!plain) refuse("a property name of an unusual form");
    const std::string property = property_name(name);
    if (caseless_ && property.size() == 2 && (property[0] == 'L' || property[0] == 'l')) {
      refuse("a letter-case property under '(?i'");  // PCRE2 then matches all cases, Oniguruma does
                                                     // not
    }
    replace(close + 1 - at_, fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', property));
  }

  std::string_view in_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = kNothing;  // where in out_ the item starts that a quantifier would repeat
  std::vector<Group> groups_;
  bool caseless_ = false;
};

}  // namespace

std::string translate_pattern(std::string_view pattern, const std::string& where) {
  if (pattern.size() > kMaxPattern) {
    user_error(
        "{}: a regular expression of {} bytes, more than the limit of {}; pass ids (--ids) instead "
        "of text",
        where, pattern.size(), kMaxPattern);
  }
  return Translator(pattern, where).run();
}

}  // namespace shunt::tokenizer
