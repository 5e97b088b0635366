// Stages of decoding that edit the tokens' text. Entry points: replace_stage(), strip_stage().
// Tested by tests/runtime/tokenizer_test.cpp against the reference library.
#include <algorithm>

#include "runtime/engine/tokenizer_decode.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

/// A literal replaced within each token.
class ReplaceLiteral : public DecodeStage {
 public:
  ReplaceLiteral(std::string literal, std::string content, DecodeStage& next)
      : literal_(std::move(literal)), content_(std::move(content)), next_(next) {}

  void text(std::string_view part) override {
    waiting_ += part;
    size_t done = 0;
    for (size_t at; (at = waiting_.find(literal_, done)) != std::string::npos;) {
      next_.text(std::string_view(waiting_).substr(done, at - done));
      next_.text(content_);
      done = at + literal_.size();
    }
    // A start of the literal waits for the rest.
    size_t keep = std::min(literal_.size() - 1, waiting_.size() - done);
    while (!waiting_.ends_with(std::string_view(literal_).substr(0, keep))) --keep;
    next_.text(std::string_view(waiting_).substr(done, waiting_.size() - keep - done));
    waiting_.erase(0, waiting_.size() - keep);
  }
  void end_token() override {
    next_.text(std::exchange(waiting_, {}));
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  std::string literal_;
  std::string content_;
  DecodeStage& next_;
  std::string waiting_;
};

class ReplaceRegex : public WholeTokens {
 public:
  ReplaceRegex(Regex regex, std::string content, DecodeStage& next)
      : WholeTokens(next), regex_(std::move(regex)), content_(std::move(content)) {}

 private:
  void token(std::string token) override {
    emit(token.empty() ? token : regex_.replace_all(token, content_));
  }
  Regex regex_;
  std::string content_;
};

/// Takes up to `start` and `stop` times a character off the ends of each token.
class Strip : public DecodeStage {
 public:
  Strip(char32_t content, size_t start, size_t stop, DecodeStage& next)
      : content_(content), start_(start), stop_(stop), next_(next) {}

  void text(std::string_view part) override {
    for_each_character(part, [&](char32_t code, std::string_view character) {
      const bool match = code == content_;
      at_start_ = at_start_ && match && cut_ < start_;
      if (at_start_) {
        ++cut_;
        return;
      }
      if (match && stop_ > 0) {
        if (waiting_ == stop_) {
          next_.text(character);
        } else {
          ++waiting_;
        }
        return;
      }
      release();
      next_.text(character);
    });
  }
  void end_token() override {
    waiting_ = 0;
    cut_ = 0;
    at_start_ = true;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  /// They were not the last ones.
  void release() {
    std::string character;
    append_utf8(content_, character);
    for (; waiting_ > 0; --waiting_) next_.text(character);
  }

  char32_t content_;
  size_t start_;
  size_t stop_;
  DecodeStage& next_;
  size_t cut_ = 0;      // of the present token
  size_t waiting_ = 0;  // matches that may be the token's last ones
  bool at_start_ = true;
};

}  // namespace

StageMaker replace_stage(const Node& node) {
  const Node pattern = node.get("pattern");
  const std::string content = node.get("content").string();
  const Node literal = pattern.get("String");
  if (literal.is_null()) return stage_of<ReplaceRegex>(make_pattern(pattern), content);
  if (literal.string().empty()) literal.unsupported("an empty pattern");
  return stage_of<ReplaceLiteral>(literal.string(), content);
}

StageMaker strip_stage(const Node& node) {
  return stage_of<Strip>(node.get("content").character(), node.get("start").count(),
                         node.get("stop").count());
}

}  // namespace shunt::tokenizer
