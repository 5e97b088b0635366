// Regular expressions of tokenizer.json: written for Oniguruma, matched by PCRE2; internal to
// tokenizer*.cpp.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shunt::tokenizer {

/// The same pattern in PCRE2's syntax. The two dialects agree on most of what tokenizers use; what
/// they read differently is rewritten (\s, \w, \v, script names, {n}+), and what is neither common
/// nor safe to rewrite throws UserError that begins with `where`.
std::string translate_pattern(std::string_view pattern, const std::string& where);

/// A compiled pattern. Immutable; any number of threads may match with it.
class Regex {
 public:
  using Range = std::pair<size_t, size_t>;  // begin, end; bytes

  /// Throws UserError that begins with `where`.
  Regex(std::string_view pattern, const std::string& where);
  /// A pattern that matches `literal` itself.
  static Regex literal(std::string_view literal, const std::string& where);

  /// All matches in `text` (valid UTF-8) from left to right; an empty match never follows another
  /// match directly. Throws UserError if the pattern takes too many steps on this text.
  std::vector<Range> find_all(std::string_view text) const;

  /// `text` with `content` in place of each match.
  std::string replace_all(std::string_view text, std::string_view content) const;

 private:
  struct Code;  // PCRE2's compiled form
  Regex(const std::string& pcre_pattern, const std::string& where, int);

  std::shared_ptr<const Code> code_;
  std::string where_;
};

}  // namespace shunt::tokenizer
