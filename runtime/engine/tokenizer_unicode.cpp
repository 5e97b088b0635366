// Character classes by utf8proc, less what the reference library's older tables lack. Entry points:
// is_punctuation() and the like. Tested by tests/runtime/tokenizer_unicode_test.cpp, which has what
// the library says of every character.
#include "runtime/engine/tokenizer_unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

struct Range {
  char32_t first, last;
};

// Punctuation, nonspacing marks and control characters newer than the library's table of
// categories. Characters of other categories may lie within a range: nobody asks about them.
constexpr Range kNewer[] = {
    {0x61d, 0x61d},     {0x7fd, 0x7fd},     {0x890, 0x8e2},     {0x9fd, 0x9fe},
    {0xa76, 0xa76},     {0xafa, 0xaff},     {0xb55, 0xb55},     {0xc04, 0xc3c},
    {0xc77, 0xc77},     {0xc84, 0xc84},     {0xd00, 0xd00},     {0xd3b, 0xd3c},
    {0xd81, 0xd81},     {0xeba, 0xeba},     {0xece, 0xece},     {0x180f, 0x1886},
    {0x1abf, 0x1ace},   {0x1b7d, 0x1b7e},   {0x1df6, 0x1dfb},   {0x2e43, 0x2e5d},
    {0xa82c, 0xa82c},   {0xa8c5, 0xa8c5},   {0xa8ff, 0xa8ff},   {0xa9bd, 0xa9bd},
    {0x10d24, 0x10f89}, {0x11070, 0x11074}, {0x110c2, 0x110cd}, {0x111c9, 0x111c9},
    {0x111cf, 0x111cf}, {0x1123e, 0x11241}, {0x1133b, 0x1133b}, {0x11438, 0x1145e},
    {0x11660, 0x1166c}, {0x116b9, 0x116b9}, {0x1182f, 0x11fff}, {0x12ff1, 0x13455},
    {0x16e97, 0x16f4f}, {0x16fe2, 0x16fe4}, {0x1cf00, 0x1cf46}, {0x1e000, 0x1e4ef},
    {0x1e944, 0x1e95f}};

// Marks newer than the table of StripAccents.
constexpr Range kNewerMarks[] = {
    {0x7fd, 0x7fd},     {0x898, 0x8d3},     {0x9fe, 0x9fe},     {0xafa, 0xaff},
    {0xb55, 0xb55},     {0xc04, 0xc3c},     {0xcf3, 0xd00},     {0xd3b, 0xd3c},
    {0xd81, 0xd81},     {0xeba, 0xeba},     {0xece, 0xece},     {0x1715, 0x1715},
    {0x180f, 0x180f},   {0x1abf, 0x1ace},   {0x1cf7, 0x1cf7},   {0x1df6, 0x1dfa},
    {0xa82c, 0xa82c},   {0xa8ff, 0xa8ff},   {0x10d24, 0x10f85}, {0x11070, 0x11074},
    {0x110c2, 0x110c2}, {0x11145, 0x11146}, {0x111c9, 0x111c9}, {0x111ce, 0x111cf},
    {0x11241, 0x11241}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x1182c, 0x11a99},
    {0x11d31, 0x13455}, {0x16f4f, 0x16f4f}, {0x16f7f, 0x16f87}, {0x16fe4, 0x16ff1},
    {0x1cf00, 0x1cf46}, {0x1e08f, 0x1e4ef}};

template <size_t N>
bool within(const Range (&ranges)[N], char32_t code) {
  const auto* range = std::ranges::lower_bound(ranges, code, {}, &Range::last);
  return range != std::end(ranges) && range->first <= code;
}

/// Category of `code` in today's Unicode: "Lu", "Mn", ...
std::string_view category(char32_t code) {
  return utf8proc_category_string(static_cast<utf8proc_int32_t>(code));
}

bool is_ascii_punctuation(char32_t code) {
  return (code >= '!' && code <= '/') || (code >= ':' && code <= '@') ||
         (code >= '[' && code <= '`') || (code >= '{' && code <= '~');
}

}  // namespace

bool is_white_space(char32_t code) {
  return (code >= 0x9 && code <= 0xd) || code == 0x20 || code == 0x85 || code == 0xa0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
         code == 0x202f || code == 0x205f || code == 0x3000;
}

bool is_punctuation(char32_t code) {
  if (is_ascii_punctuation(code)) return true;
  if (code == 0x166d || code == 0x111c9) return true;  // no longer in category P
  return category(code).starts_with('P') && !within(kNewer, code);
}

bool is_other(char32_t code) {
  const std::string_view c = category(code);
  return (c == "Cc" || c == "Cf" || c == "Co") && !within(kNewer, code);
}

bool is_nonspacing_mark(char32_t code) {
  if (code == 0x1734) return true;  // today a spacing one
  return category(code) == "Mn" && !within(kNewer, code);
}

bool is_combining_mark(char32_t code) {
  if (code == 0x1cf2 || code == 0x1cf3) return true;  // letters today
  return category(code).starts_with('M') && !within(kNewerMarks, code);
}

void append_lowercase(char32_t code, std::string& text) {
  if (code == 0x130) {  // I with a dot: the only letter whose lower case is two characters
    text += "i\xcc\x87";
    return;
  }
  append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))), text);
}

}  // namespace shunt::tokenizer
