// Strict and bounded JSON reading. Entry point: parse_strict_json(). Tested by
// tests/runtime/checkpoint/strict_json_test.cpp.
#include "runtime/checkpoint/strict_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <unordered_set>
#include <vector>

#include "ir/error.h"
#include "runtime/checkpoint/file_reader.h"

namespace shunt {

using nlohmann::json;

namespace {

/// Refuses deep nesting before the tree is built: copying or printing a deep tree recurses.
void check_depth(std::string_view text, const std::string& file, int max_depth) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > max_depth) {
        user_error(
            "{}: JSON nested deeper than {} levels at byte {}; this is not a file that a model "
            "needs",
            file, max_depth, i);
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

/// nlohmann keeps the last of two equal keys; a strict reader must not choose.
class DuplicateKeys {
 public:
  explicit DuplicateKeys(const std::string& file) : file_(file) {}

  bool operator()(int /*depth*/, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) {
      open_.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      open_.pop_back();
    } else if (event == json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!open_.back().insert(key).second) {
        user_error("{}: key {} appears twice in one object; remove one of them", file_,
                   quote_name(key));
      }
    }
    return true;
  }

 private:
  const std::string& file_;
  std::vector<std::unordered_set<std::string>>
      open_;  // keys seen in each object that is still open
};

}  // namespace

json parse_strict_json(std::string_view text, const std::string& file, JsonLimits limits) {
  if (static_cast<int64_t>(text.size()) > limits.max_bytes) {
    user_error("{}: {} bytes of JSON, more than the limit of {}", file, text.size(),
               limits.max_bytes);
  }
  // nlohmann takes a NUL for the end of the text; what follows it would go unread.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    user_error("{}: not valid JSON (NUL at byte {}); repair the file or fetch it again", file, nul);
  }
  check_depth(text, file, limits.max_depth);
  DuplicateKeys duplicates(file);
  try {
    return json::parse(text.begin(), text.end(), std::ref(duplicates));
  } catch (const json::parse_error& e) {
    user_error("{}: not valid JSON (byte {}); repair the file or fetch it again", file, e.byte);
  } catch (const json::out_of_range&) {
    user_error("{}: JSON with a number out of range; repair the file or fetch it again", file);
  }
}

std::string read_text_file(const std::filesystem::path& path, int64_t max_bytes) {
  const FileReader file(path);
  if (file.size() > max_bytes) {
    user_error("{}: {} bytes, more than the limit of {}", path.string(), file.size(), max_bytes);
  }
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

std::string quote_name(std::string_view name) {
  constexpr size_t kMax = 120;
  std::string text = "'";
  for (size_t i = 0; i < name.size(); ++i) {
    // Cut only between characters, so that the message stays UTF-8.
    const auto c = static_cast<unsigned char>(name[i]);
    if (i >= kMax && (c & 0xc0) != 0x80) return text + "...'";
    if (c < 0x20 || c == 0x7f) {
      text += fmt::format("\\x{:02x}", c);
    } else {
      text += static_cast<char>(c);
    }
  }
  return text + "'";
}

}  // namespace shunt
