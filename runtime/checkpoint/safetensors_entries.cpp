// Reads the JSON of safetensors headers. Entry point: read_entries(). The JSON is read as a stream
// of events, so that neither nesting nor a hostile shape of the tree costs memory or stack. Tested
// by tests/runtime/checkpoint/safetensors_test.cpp and tests/fuzz/fuzz_safetensors.cpp.
#include "runtime/checkpoint/safetensors_entries.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "ir/error.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt::safetensors {

namespace {

constexpr size_t kMaxRank = 64;             // PyTorch's own limit
constexpr size_t kMaxMetadata = 1'000'000;  // keys of __metadata__, which is checked but not kept

constexpr FormatDType kFormatDTypes[] = {
    {"F32", 32, DType::f32},       {"F16", 16, DType::f16},      {"BF16", 16, DType::bf16},
    {"I64", 64, DType::i64},       {"I32", 32, DType::i32},      {"U8", 8, DType::u8},
    {"F8_E4M3", 8, DType::f8e4m3}, {"BOOL", 8, std::nullopt},    {"I8", 8, std::nullopt},
    {"I16", 16, std::nullopt},     {"U16", 16, std::nullopt},    {"U32", 32, std::nullopt},
    {"U64", 64, std::nullopt},     {"F64", 64, std::nullopt},    {"C64", 64, std::nullopt},
    {"F8_E5M2", 8, std::nullopt},  {"F8_E8M0", 8, DType::u8},    {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F4", 4, std::nullopt},       {"F6_E2M3", 6, std::nullopt}, {"F8_E5M2FNUZ", 8, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},
};

/// Receives JSON events and fills `entries`. Anything out of place throws UserError.
class HeaderEvents {
 public:
  explicit HeaderEvents(const std::string& file) : file_(file) {}

  std::vector<Entry> entries;

  bool key(std::string& text) {
    switch (at_) {
      case At::top: return top_key(text);
      case At::entry: return entry_key(text);
      default: break;  // metadata: only here can another key come
    }
    if (!metadata_keys_.insert(text).second)
      fail("key {} of __metadata__ appears twice", quote_name(text));
    if (metadata_keys_.size() > kMaxMetadata)
      fail("__metadata__ has more than {} keys", kMaxMetadata);
    at_ = At::metadata_value;
    return true;
  }

  bool start_object(size_t) {
    switch (at_) {
      case At::start: at_ = At::top; return true;
      case At::entry_start: at_ = At::entry; return true;
      case At::metadata_start: at_ = At::metadata; return true;
      default: return misplaced("an object");
    }
  }

  bool end_object() {
    if (at_ == At::entry) finish_entry();
    at_ = at_ == At::top ? At::end : At::top;
    return true;
  }

  bool start_array(size_t) {
    switch (at_) {
      case At::shape_start: at_ = At::shape; return true;
      case At::range_start: at_ = At::range; return true;
      default: return misplaced("an array");
    }
  }

  bool end_array() {
    at_ = At::entry;
    return true;
  }

  bool string(std::string& text) {
    if (at_ == At::metadata_value) {
      at_ = At::metadata;
      return true;
    }
    if (at_ != At::dtype) return misplaced("a string");
    const auto* found =
        std::ranges::find(kFormatDTypes, std::string_view(text), &FormatDType::name);
    if (found == std::end(kFormatDTypes)) fail_entry("unknown dtype {}", quote_name(text));
    entries.back().dtype = found;
    at_ = At::entry;
    return true;
  }

  bool number_unsigned(uint64_t value) {
    if (at_ != At::shape && at_ != At::range) return misplaced("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail_entry("number {} is out of range", value);
    }
    std::vector<int64_t>& list = at_ == At::shape ? entries.back().shape : entries.back().range;
    if (list.size() >= (at_ == At::shape ? kMaxRank : 2))
      fail_entry("too many numbers in shape or data_offsets");
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool null() { return misplaced("null"); }
  bool boolean(bool) { return misplaced("true or false"); }
  bool number_integer(int64_t) { return misplaced("a negative number"); }
  bool number_float(double, const std::string&) { return misplaced("a number that is no integer"); }
  bool binary(std::vector<uint8_t>&) { return misplaced("binary data"); }
  bool parse_error(size_t byte, const std::string&, const nlohmann::json::exception&) {
    fail("not valid JSON (byte {} of the header)", byte);
  }

 private:
  // What the next event belongs to: a value that must come (*_start, *_value, dtype) or a place
  // between values.
  enum class At {
    start,
    top,
    entry_start,
    entry,
    dtype,
    shape_start,
    shape,
    range_start,
    range,
    metadata_start,
    metadata,
    metadata_value,
    end
  };

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> f, Args&&... args) const {
    user_error("{}: {}; {}", file_, fmt::format(f, std::forward<Args>(args)...), kBroken);
  }
  template <class... Args>
  [[noreturn]] void fail_entry(fmt::format_string<Args...> f, Args&&... args) const {
    fail("tensor {}: {}", quote_name(entries.back().name),
         fmt::format(f, std::forward<Args>(args)...));
  }

  [[noreturn]] bool misplaced(std::string_view what) const {
    if (at_ == At::start) fail("the header is {}, not an object", what);
    if (entries.empty() || at_ == At::metadata_start || at_ == At::metadata_value) {
      fail("{} where __metadata__ must have a string", what);
    }
    fail_entry("{} where the format has none", what);
  }

  bool top_key(std::string& text) {
    if (text == "__metadata__") {
      if (has_metadata_) fail("__metadata__ appears twice");
      has_metadata_ = true;
      at_ = At::metadata_start;
      return true;
    }
    if (!names_.insert(text).second) fail("tensor {} appears twice", quote_name(text));
    entries.emplace_back();
    entries.back().name = text;
    at_ = At::entry_start;
    return true;
  }

  bool entry_key(const std::string& text) {
    Entry& entry = entries.back();
    bool repeated = false;
    if (text == "dtype") {
      repeated = entry.dtype != nullptr;
      at_ = At::dtype;
    } else if (text == "shape") {
      repeated = std::exchange(entry.has_shape, true);
      at_ = At::shape_start;
    } else if (text == "data_offsets") {
      repeated = std::exchange(entry.has_range, true);
      at_ = At::range_start;
    } else {
      fail_entry("unknown key {}", quote_name(text));
    }
    if (repeated) fail_entry("key {} appears twice", quote_name(text));
    return true;
  }

  void finish_entry() const {
    const Entry& entry = entries.back();
    if (entry.dtype == nullptr) fail_entry("no dtype");
    if (!entry.has_shape) fail_entry("no shape");
    if (entry.range.size() != 2) fail_entry("data_offsets must be two numbers");
  }

  const std::string& file_;
  At at_ = At::start;
  bool has_metadata_ = false;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_keys_;
};

}  // namespace

std::vector<Entry> read_entries(std::string_view text, const std::string& file) {
  HeaderEvents events(file);
  nlohmann::json::sax_parse(text.begin(), text.end(), &events);
  return std::move(events.entries);
}

}  // namespace shunt::safetensors
