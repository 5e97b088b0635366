// Cutting text at the matches of a pattern. Entry point: Split. Tested by
// tests/runtime/tokenizer_test.cpp against the reference library.
#include "runtime/engine/tokenizer_split.h"

#include <algorithm>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

struct Part {
  Regex::Range range;
  bool match;
};

/// Matches and the text between them, covering `text`.
std::vector<Part> cover(std::string_view text, const std::vector<Regex::Range>& matches,
                        bool invert) {
  std::vector<Part> parts;
  size_t end = 0;
  for (const Regex::Range& match : matches) {
    if (end != match.first) parts.push_back({{end, match.first}, invert});
    parts.push_back({match, !invert});
    end = match.second;
  }
  if (end != text.size()) parts.push_back({{end, text.size()}, invert});
  return parts;
}

/// Joins neighbours as `behavior` says; a delimiter directly after another stays apart when
/// merging.
std::vector<Regex::Range> arrange(const std::vector<Part>& parts, Behavior behavior) {
  std::vector<Regex::Range> ranges;
  bool previous = false;
  switch (behavior) {
    case Behavior::isolated:
      for (const Part& part : parts) ranges.push_back(part.range);
      break;
    case Behavior::removed:
      for (const Part& part : parts) {
        if (!part.match) ranges.push_back(part.range);
      }
      break;
    case Behavior::contiguous:
    case Behavior::merged_with_previous:
      for (const Part& part : parts) {
        const bool join =
            behavior == Behavior::contiguous ? part.match == previous : part.match && !previous;
        if (join && !ranges.empty()) {
          ranges.back().second = part.range.second;
        } else {
          ranges.push_back(part.range);
        }
        previous = part.match;
      }
      break;
    case Behavior::merged_with_next:
      for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
        if (part->match && !previous && !ranges.empty()) {
          ranges.back().first = part->range.first;
        } else {
          ranges.push_back(part->range);
        }
        previous = part->match;
      }
      std::ranges::reverse(ranges);
      break;
  }
  return ranges;
}

}  // namespace

Split::Split(bool (*is_delimiter)(char32_t), Behavior behavior)
    : Split(
          [is_delimiter](std::string_view text) {
            std::vector<Regex::Range> matches;
            size_t at = 0;
            for_each_character(text, [&](char32_t code, std::string_view character) {
              if (is_delimiter(code)) matches.emplace_back(at, at + character.size());
              at += character.size();
            });
            return matches;
          },
          behavior) {}

void Split::split(const Word& piece, std::vector<Word>& words) const {
  const std::string_view text = piece.text;
  for (const auto& [begin, end] : arrange(cover(text, find_(text), invert_), behavior_)) {
    if (end == begin) continue;
    words.push_back({std::string(text.substr(begin, end - begin)), piece.first && begin == 0});
  }
}

Behavior behavior_of(const Node& node) {
  const std::string name = node.string();
  if (name == "Isolated") return Behavior::isolated;
  if (name == "Removed") return Behavior::removed;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  node.unsupported("split behavior " + quote_name(name));
}

}  // namespace shunt::tokenizer
