// Compiles and matches patterns with PCRE2. Entry point: Regex. Tested by
// tests/runtime/tokenizer_regex_test.cpp.
#include "runtime/engine/tokenizer_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "ir/error.h"
#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

constexpr uint32_t kMaxSteps = 10'000'000;   // backtracking steps of one match
constexpr uint32_t kMaxHeapKib = 64 * 1024;  // memory of one match

template <auto free_function>
struct Free {
  template <class T>
  void operator()(T* p) const {
    free_function(p);
  }
};
using CompileContext = std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;

std::string message_of(int error) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(error, buffer, sizeof buffer) < 0)
    return "error " + std::to_string(error);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> pcre;
};

Regex::Regex(std::string_view pattern, const std::string& where)
    : Regex(translate_pattern(pattern, where), where, 0) {}

Regex Regex::literal(std::string_view literal, const std::string& where) {
  std::string pattern;
  for (char c : literal) {
    // A backslash makes any ASCII punctuation literal; letters, digits and other bytes must have
    // none.
    const bool word = (c & 0x80) != 0 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                      (c >= 'A' && c <= 'Z');
    if (c == '\0') {
      pattern += "\\x{0}";
    } else {
      if (!word && static_cast<unsigned char>(c) > 0x20 && c != 0x7f) pattern += '\\';
      pattern += c;
    }
  }
  return Regex(pattern, where, 0);
}

Regex::Regex(const std::string& pcre_pattern, const std::string& where, int) : where_(where) {
  const CompileContext context(pcre2_compile_context_create(nullptr));
  SHUNT_CHECK(context != nullptr, "PCRE2: out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);  // what '.', '^' and '$' mean in Oniguruma
  int error = 0;
  PCRE2_SIZE at = 0;
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  auto* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre_pattern.data()), pcre_pattern.size(),
                             kOptions, &error, &at, context.get());
  if (code == nullptr) {
    user_error("{}: cannot read the regular expression {}: {}; pass ids (--ids) instead of text",
               where, quote_name(pcre_pattern), message_of(error));
  }
  // Without JIT support matching is slower, not different.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  code_ = std::make_shared<const Code>(Code{decltype(Code::pcre)(code)});
}

std::vector<Regex::Range> Regex::find_all(std::string_view text) const {
  const MatchContext context(pcre2_match_context_create(nullptr));
  const MatchData data(pcre2_match_data_create_from_pattern(code_->pcre.get(), nullptr));
  SHUNT_CHECK(context != nullptr && data != nullptr, "PCRE2: out of memory");
  pcre2_set_match_limit(context.get(), kMaxSteps);
  pcre2_set_heap_limit(context.get(), kMaxHeapKib);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());

  std::vector<Range> matches;
  size_t start = 0;
  while (start <= text.size()) {
    int count = pcre2_match(code_->pcre.get(), subject, text.size(), start, PCRE2_NO_UTF_CHECK,
                            data.get(), context.get());
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its stack on the heap
      count = pcre2_match(code_->pcre.get(), subject, text.size(), start,
                          PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), context.get());
    }
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0) {
      user_error(
          "{}: the regular expression fails on this text: {}; pass ids (--ids) instead of text",
          where_, message_of(count));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    if (range[0] == range[1] && !matches.empty() && matches.back().second == range[1]) {
      // Empty, and directly after a match: one character on, as Oniguruma's iterator does.
      start += start < text.size() ? utf8_step(text.substr(start, 4)).length : 1;
      continue;
    }
    matches.emplace_back(range[0], range[1]);
    start = range[1];
  }
  return matches;
}

std::string Regex::replace_all(std::string_view text, std::string_view content) const {
  std::string replaced;
  size_t done = 0;
  for (const auto& [begin, end] : find_all(text)) {
    replaced.append(text.substr(done, begin - done)).append(content);
    done = end;
  }
  return replaced.append(text.substr(done));
}

}  // namespace shunt::tokenizer
