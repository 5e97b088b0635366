// Cutting text into words: ByteLevel, Split, Digits, Sequence. Entry point: make_pre_tokenizer().
// Tested by tests/runtime/tokenizer_test.cpp against the reference library.
#include <algorithm>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_regex.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// What becomes of a delimiter (a match of the pattern).
enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

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

class Split : public PreTokenizer {
 public:
  Split(Regex regex, Behavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}

  void split(std::string_view piece, std::vector<std::string>& words) const override {
    for (const auto& [begin, end] :
         arrange(cover(piece, regex_.find_all(piece), invert_), behavior_)) {
      if (end > begin) words.emplace_back(piece.substr(begin, end - begin));
    }
  }

 private:
  Regex regex_;
  Behavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, const std::string& where)
      : add_prefix_space_(add_prefix_space) {
    if (use_regex) split_.emplace(Regex(kGpt2Pattern, where), Behavior::isolated, false);
  }

  void split(std::string_view piece, std::vector<std::string>& words) const override {
    std::string spaced;
    if (add_prefix_space_ && !piece.starts_with(' ')) {
      spaced = " " + std::string(piece);
      piece = spaced;
    }
    const size_t first = words.size();
    if (split_) {
      split_->split(piece, words);
    } else {
      words.emplace_back(piece);
    }
    for (size_t i = first; i < words.size(); ++i) words[i] = to_byte_chars(words[i]);
  }

 private:
  static std::string to_byte_chars(std::string_view word) {
    std::string mapped;
    mapped.reserve(word.size() + 8);
    for (char c : word) append_utf8(byte_to_char(static_cast<uint8_t>(c)), mapped);
    return mapped;
  }

  bool add_prefix_space_;
  std::optional<Split> split_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> parts)
      : parts_(std::move(parts)) {}

  void split(std::string_view piece, std::vector<std::string>& words) const override {
    std::vector<std::string> now = {std::string(piece)};
    for (const auto& part : parts_) {
      std::vector<std::string> next;
      for (const std::string& word : now) part->split(word, next);
      now = std::move(next);
    }
    std::ranges::move(now, std::back_inserter(words));
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

Behavior behavior_of(const Node& node) {
  const std::string name = node.string();
  if (name == "Isolated") return Behavior::isolated;
  if (name == "Removed") return Behavior::removed;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  node.unsupported("split behavior " + quote_name(name));
}

std::unique_ptr<PreTokenizer> make_split(const Node& node) {
  const Node pattern = node.get("pattern");
  const Behavior behavior = behavior_of(node.get("behavior"));
  const bool invert = node.get("invert").boolean_or(false);
  if (const Node regex = pattern.get("Regex"); !regex.is_null()) {
    return std::make_unique<Split>(Regex(regex.string(), regex.where()), behavior, invert);
  }
  const Node literal = pattern.get("String");
  if (literal.string().empty()) literal.unsupported("an empty pattern");
  return std::make_unique<Split>(Regex::literal(literal.string(), literal.where()), behavior,
                                 invert);
}

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Node& node) {
  if (node.is_null()) node.unsupported("a tokenizer without pre_tokenizer");
  const std::string kind = node.kind();
  if (kind == "ByteLevel") {
    return std::make_unique<ByteLevel>(node.get("add_prefix_space").boolean(),
                                       node.get("use_regex").boolean_or(true), node.where());
  }
  if (kind == "Split") return make_split(node);
  if (kind == "Digits") {
    const bool individual = node.get("individual_digits").boolean_or(false);
    return std::make_unique<Split>(Regex(R"(\p{N})", node.where()),
                                   individual ? Behavior::isolated : Behavior::contiguous, false);
  }
  if (kind == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    for (const Node& item : node.get("pretokenizers").items())
      parts.push_back(make_pre_tokenizer(item));
    return std::make_unique<PreTokenizerSequence>(std::move(parts));
  }
  node.unsupported("pre-tokenizer " + quote_name(kind));
}

}  // namespace shunt::tokenizer
