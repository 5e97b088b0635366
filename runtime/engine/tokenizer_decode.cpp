// The stages of decoding. Entry points: make_decoder(), DecodeChain. Tested by
// tests/runtime/tokenizer_test.cpp against the reference library.
#include "runtime/engine/tokenizer_decode.h"

#include <utility>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

/// All tokens become one.
class Fuse : public DecodeStage {
 public:
  explicit Fuse(DecodeStage& next) : next_(next) {}
  void text(std::string_view part) override { next_.text(part); }
  void end_token() override {}
  void finish() override {
    next_.end_token();
    next_.finish();
  }

 private:
  DecodeStage& next_;
};

/// The visible blank back to a blank; in the first token, to nothing.
class Metaspace : public DecodeStage {
 public:
  Metaspace(char32_t replacement, bool prepended, DecodeStage& next)
      : replacement_(replacement), drop_(prepended), next_(next) {}

  void text(std::string_view part) override {
    std::string out;
    for_each_character(part, [&](char32_t code, std::string_view character) {
      if (code != replacement_) {
        out += character;
      } else if (!drop_) {
        out += ' ';
      }
    });
    next_.text(out);
  }
  void end_token() override {
    drop_ = false;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  char32_t replacement_;
  bool drop_;
  DecodeStage& next_;
};

/// A blank before each token that does not continue a word.
class WordPiece : public WholeTokens {
 public:
  WordPiece(std::string prefix, bool cleanup, DecodeStage& next)
      : WholeTokens(next), prefix_(std::move(prefix)), cleanup_(cleanup) {}

 private:
  void token(std::string token) override {
    if (std::exchange(first_, false)) {
      // stays as it is
    } else if (token.starts_with(prefix_)) {
      token.erase(0, prefix_.size());
    } else {
      token.insert(0, " ");
    }
    emit(cleanup_ ? cleaned(std::move(token)) : token);
  }

  static std::string cleaned(std::string text) {
    constexpr std::pair<std::string_view, std::string_view> kRules[] = {
        {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
        {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
        {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [from, to] : kRules) {
      for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
        text.replace(at, from.size(), to);
      }
    }
    return text;
  }

  std::string prefix_;
  bool cleanup_;
  bool first_ = true;
};

StageMaker make_metaspace(const Node& node) {
  const Node scheme = node.get("prepend_scheme");
  const bool prepended = (scheme.is_null() || scheme.string() != "never") &&
                         node.get("add_prefix_space").boolean_or(true);
  return stage_of<Metaspace>(node.get("replacement").character(), prepended);
}

}  // namespace

std::vector<StageMaker> make_decoder(const Node& node) {
  if (node.is_null()) node.unsupported("a tokenizer without decoder");
  const std::string kind = node.kind();
  if (kind == "ByteLevel") return {byte_level_stage()};
  if (kind == "ByteFallback") return {byte_fallback_stage()};
  if (kind == "Fuse") return {stage_of<Fuse>()};
  if (kind == "Metaspace") return {make_metaspace(node)};
  if (kind == "Replace") return {replace_stage(node)};
  if (kind == "Strip") return {strip_stage(node)};
  if (kind == "WordPiece") {
    return {stage_of<WordPiece>(node.get("prefix").string(), node.get("cleanup").boolean())};
  }
  if (kind == "Sequence") {
    std::vector<StageMaker> all;
    for (const Node& item : node.get("decoders").items()) {
      for (StageMaker& stage : make_decoder(item)) all.push_back(std::move(stage));
    }
    return all;
  }
  node.unsupported("decoder " + quote_name(kind));
}

DecodeChain::DecodeChain(const std::vector<StageMaker>& makers) {
  front_ = &collector_;
  for (auto maker = makers.rbegin(); maker != makers.rend(); ++maker) {
    stages_.push_back((*maker)(*front_));
    front_ = stages_.back().get();
  }
}

std::string DecodeChain::push(std::string_view token) {
  front_->text(token);
  front_->end_token();
  return std::exchange(collector_.collected, {});
}

std::string DecodeChain::finish() {
  front_->finish();
  return std::exchange(collector_.collected, {});
}

}  // namespace shunt::tokenizer
