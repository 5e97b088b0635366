// Token strings back to text, token by token; internal to runtime/engine/tokenizer*.cpp.
//
// The decoders of tokenizer.json are functions on the list of all tokens. Here each is a stage that
// takes tokens as they come and passes on what no later token can change: all pieces together are
// what the function would give.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/engine/tokenizer_json.h"

namespace shunt::tokenizer {

class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  /// A part of the present token: whole characters.
  virtual void text(std::string_view part) = 0;
  virtual void end_token() = 0;
  /// After the last token.
  virtual void finish() = 0;
};

/// Makes a stage that passes its tokens to `next`, which outlives it.
using StageMaker = std::function<std::unique_ptr<DecodeStage>(DecodeStage& next)>;

/// A stage that needs its tokens whole.
class WholeTokens : public DecodeStage {
 public:
  explicit WholeTokens(DecodeStage& next) : next_(next) {}
  void text(std::string_view part) final { token_ += part; }
  void end_token() final { token(std::exchange(token_, {})); }
  void finish() override { next_.finish(); }

 protected:
  virtual void token(std::string token) = 0;
  void emit(std::string_view token) {
    next_.text(token);
    next_.end_token();
  }
  DecodeStage& next_;

 private:
  std::string token_;
};

template <class Stage, class... Parameters>
StageMaker stage_of(Parameters... parameters) {
  return [=](DecodeStage& next) { return std::make_unique<Stage>(parameters..., next); };
}

StageMaker byte_level_stage();
StageMaker byte_fallback_stage();
StageMaker replace_stage(const Node& node);
StageMaker strip_stage(const Node& node);

/// The stages of a decoder, in order.
std::vector<StageMaker> make_decoder(const Node& node);

/// One text being decoded.
class DecodeChain {
 public:
  explicit DecodeChain(const std::vector<StageMaker>& makers);
  DecodeChain(const DecodeChain&) = delete;

  /// The text that `token` completes.
  std::string push(std::string_view token);
  /// What is left.
  std::string finish();

 private:
  class Collector : public DecodeStage {
   public:
    void text(std::string_view part) override { collected += part; }
    void end_token() override {}
    void finish() override {}
    std::string collected;
  };
  Collector collector_;
  std::vector<std::unique_ptr<DecodeStage>> stages_;  // the last one first
  DecodeStage* front_;
};

}  // namespace shunt::tokenizer
