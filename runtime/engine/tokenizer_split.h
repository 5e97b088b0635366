// What pre-tokenizers make of the matches of a pattern; internal to runtime/engine/tokenizer*.cpp.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "runtime/engine/tokenizer_parts.h"

namespace shunt::tokenizer {

/// What becomes of a delimiter (a match of the pattern).
enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

/// Throws UserError for a name that is none.
Behavior behavior_of(const Node& node);

/// Cuts at the matches of a pattern.
class Split : public PreTokenizer {
 public:
  /// All matches within a text, from left to right.
  using Find = std::function<std::vector<Regex::Range>(std::string_view)>;

  /// With `invert`, the delimiters are what lies between the matches.
  Split(Find find, Behavior behavior, bool invert = false)
      : find_(std::move(find)), behavior_(behavior), invert_(invert) {}
  Split(const Regex& regex, Behavior behavior, bool invert = false)
      : Split([regex](std::string_view text) { return regex.find_all(text); }, behavior, invert) {}
  /// Every character of a class is a match of its own.
  Split(bool (*is_delimiter)(char32_t), Behavior behavior);

  void split(const Word& piece, std::vector<Word>& words) const override;

 private:
  Find find_;
  Behavior behavior_;
  bool invert_;
};

}  // namespace shunt::tokenizer
