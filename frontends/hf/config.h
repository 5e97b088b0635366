// config.json of a Hugging Face model directory, read key by key.
//
// Every getter records the key it was asked for; finish() then refuses the keys that nobody read,
// unless they are in the documented list of keys without effect on inference or hold a neutral
// value (null, false or empty; 0 is none: it may mean something). So a model is never run with part
// of its description ignored.
//
// A getter takes one key or several spellings of one ("num_experts", "num_local_experts"); if more
// than one is present, they must agree. A key whose value is null counts as absent. All errors are
// UserErrors that name the file and the key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shunt::hf {

/// Largest sizes accepted, an order of magnitude above any published model: a hostile config must
/// not make the compiler allocate or loop without end.
inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxHidden = 1 << 17;
inline constexpr int64_t kMaxWidth = 1 << 20;  // of an MLP
inline constexpr int64_t kMaxHeads = 4096;
inline constexpr int64_t kMaxHeadDim = 4096;
inline constexpr int64_t kMaxExperts = 4096;
inline constexpr int64_t kMaxVocab = 1 << 23;
inline constexpr int64_t kMaxPositions = 1 << 27;

struct Range {
  double min = -std::numeric_limits<double>::max();
  double max = std::numeric_limits<double>::max();
};

class Config {
 public:
  using Keys = std::initializer_list<const char*>;

  /// Reads a file: config.json or generation_config.json.
  static Config read(const std::filesystem::path& file);
  /// `file` is for messages. A `text_config` wrapper (multimodal models) is merged into the top
  /// level.
  static Config parse(std::string_view text, const std::string& file);

  bool has(const char* key) const;

  /// A list of equal integers (one a layer, as some write it) counts as one.
  int64_t integer(Keys keys, int64_t min, int64_t max) const;
  int64_t integer_or(Keys keys, int64_t fallback, int64_t min, int64_t max) const;
  double number(Keys keys, Range range) const;
  double number_or(Keys keys, double fallback, Range range) const;
  bool boolean_or(Keys keys, bool fallback) const;
  std::string text(Keys keys) const;
  std::string text_or(Keys keys, std::string fallback) const;
  /// An integer or a list of integers; empty if absent.
  std::vector<int64_t> integers(Keys keys) const;
  std::vector<double> numbers(Keys keys) const;
  std::vector<std::string> texts(Keys keys) const;
  /// [[["a", "b"], 2], ...]: the names of each list, so many times over. Empty if absent.
  std::vector<std::string> repeated_texts(const char* key) const;
  /// A nested object, read through the same getters; its keys are subject to finish() too.
  std::optional<Config> object(const char* key) const;

  /// Throws for the first key that was not understood. Returns those that were ignored and deserve
  /// a remark.
  std::vector<std::string> finish(std::string_view family) const;

  /// What became of each key, nested ones included, in the file's order (alphabetic).
  struct KeyReport {
    enum class State {
      read,     // a getter asked for it
      inert,    // on the list of keys without effect on inference
      neutral,  // nobody asked, and its value turns nothing on
      unknown,  // finish() throws
    };
    std::vector<std::string> path;  // {"rope_parameters", "rope_theta"}
    std::string value;              // JSON; long ones are cut
    State state = State::read;
    bool remark = false;  // inert, but worth a line to the user
    std::string name() const;
  };
  std::vector<KeyReport> report() const;

  /// Copies of the whole config in which the key at `path` (in all its spellings) is missing, or
  /// has another value of its kind: what becomes different when they are read depends on the key.
  std::vector<Config> variations(const std::vector<std::string>& path) const;

  /// Throws a UserError "<file>: key '<key>': <message>".
  [[noreturn]] void fail(std::string_view key, std::string_view message) const;
  const std::string& file() const;

 private:
  struct Document;
  struct Found;
  Config(std::shared_ptr<Document> document, const void* node, std::string prefix)
      : document_(std::move(document)), node_(node), prefix_(std::move(prefix)) {}
  Found find(Keys keys) const;
  Found require(Keys keys) const;

  std::shared_ptr<Document> document_;
  const void* node_;    // an object of the document
  std::string prefix_;  // "rope_parameters."
};

}  // namespace shunt::hf
