// Text to token ids and back, as a Hugging Face tokenizer.json says.
//
// Read today: BPE (byte-level, or with byte fallback), WordPiece and Unigram. Any other model,
// pre-tokenizer, normalizer, ... is a UserError that names it: two libraries that cut a text
// differently are worse than none. The file's `truncation` and `padding` are ignored, as
// transformers does. Text is UTF-8; a text that is not is a UserError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

/// Bytes to UTF-8 in pieces: whole characters come out, an unfinished one waits for its next bytes.
/// What can become no character becomes U+FFFD, once for each maximal invalid part.
class Utf8Assembler {
 public:
  /// The text that `bytes` complete; "" if they end inside their first character.
  std::string push(std::string_view bytes);
  /// What an end of the stream makes of the waiting bytes: U+FFFD, or "".
  std::string finish();

 private:
  std::string waiting_;  // a valid start of one character, at most 3 bytes
};

/// Immutable and cheap to copy (copies share their tables); any number of threads may use one at
/// once.
class Tokenizer {
 public:
  /// Throws UserError that names the file and the key.
  static Tokenizer from_file(const std::filesystem::path& tokenizer_json);
  /// The same from memory; `file` names it in errors.
  static Tokenizer from_json(std::string_view json, const std::string& file);

  /// Ids of `text`. With `add_special`, also those that the file's post-processor adds (a BOS,
  /// say). Names of special tokens within `text` always become those tokens. Throws UserError if
  /// `text` is not UTF-8, or has a character for which the vocabulary has no token.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true) const;

  /// Text of `ids`, always valid UTF-8. As in the reference library, ids without a token (a model's
  /// vocabulary is often padded) give no text.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  bool is_special(int32_t id) const;

  /// One more than the highest id.
  int vocab_size() const;
  /// Id of the token spelled `token` in the file ("<|endoftext|>", "Ġthe").
  std::optional<int32_t> token_id(std::string_view token) const;

  struct Impl;

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

namespace tokenizer {
class DecodeChain;
}

/// Decodes ids as they come. All pieces together are what Tokenizer::decode gives. A piece waits
/// where a later id could change it: an unfinished character, or, with byte fallback, a run of
/// bytes.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = false);
  StreamDecoder(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  /// To be called first, if at all: the ids to come continue `prompt`, whose own text is left out.
  /// Without it a blank that begins the continuation would be lost as one that begins a text.
  void start_after(std::span<const int32_t> prompt);
  /// The text that `id` completes: whole UTF-8 characters, possibly "".
  std::string push(int32_t id);
  /// To be called once, at the end.
  std::string finish();

 private:
  std::string without_given(std::string text);

  Tokenizer tokenizer_;
  bool skip_special_;
  std::unique_ptr<tokenizer::DecodeChain> chain_;
  std::string given_;  // text of the prompt that is still to come
};

}  // namespace shunt
