// Stages of decoding that join bytes to characters. Entry points: byte_level_stage(),
// byte_fallback_stage(). Tested by tests/runtime/tokenizer_test.cpp against the reference library.
#include "runtime/engine/tokenizer.h"
#include "runtime/engine/tokenizer_decode.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

/// Byte-level alphabet to text; all tokens become one.
class ByteLevel : public WholeTokens {
 public:
  using WholeTokens::WholeTokens;
  void finish() override {
    emit(assembler_.finish());
    next_.finish();
  }

 private:
  void token(std::string token) override { next_.text(assembler_.push(bytes(token))); }

  static std::string bytes(const std::string& token) {
    std::string bytes;
    bool known = true;
    for_each_character(token, [&](char32_t code, std::string_view) {
      const auto byte = char_to_byte(code);
      known = known && byte;
      if (byte) bytes += static_cast<char>(*byte);
    });
    // A token with a character outside the alphabet is an added one, and stands for itself.
    return known ? bytes : token;
  }

  Utf8Assembler assembler_;
};

/// Runs of tokens "<0xE2>" become their bytes' text; if those are not UTF-8, a U+FFFD each.
class ByteFallback : public WholeTokens {
 public:
  using WholeTokens::WholeTokens;
  void finish() override {
    end_run();
    next_.finish();
  }

 private:
  void token(std::string token) override {
    if (const int byte = byte_of(token); byte >= 0) {
      run_ += static_cast<char>(byte);
    } else {
      end_run();
      emit(token);
    }
  }

  void end_run() {
    if (run_.empty()) return;
    if (!find_invalid_utf8(run_)) {
      emit(run_);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) emit(kReplacement);
    }
    run_.clear();
  }

  /// -1: is not one.
  static int byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return -1;
    const auto digit = [](char c) {
      if (c >= '0' && c <= '9') return c - '0';
      if (c >= 'a' && c <= 'f') return c - 'a' + 10;
      return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    };
    // "+F" is a number to the reference library.
    const int high = token[3] == '+' ? 0 : digit(token[3]);
    const int low = digit(token[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
  }

  std::string run_;
};

}  // namespace

StageMaker byte_level_stage() { return stage_of<ByteLevel>(); }
StageMaker byte_fallback_stage() { return stage_of<ByteFallback>(); }

}  // namespace shunt::tokenizer
