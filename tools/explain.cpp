// Text and JSON of explanations. Tested by tests/tools/explain_test.cpp.
#include "tools/explain.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace shunt {

using nlohmann::ordered_json;

namespace {

bool is_number(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

/// The first number between dots of `name` becomes "N"; -1 if there is none.
int64_t take_number(std::string& name) {
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('.', start), name.size());
    if (is_number(std::string_view(name).substr(start, end - start)) && end - start < 10) {
      const int64_t number = std::stoll(name.substr(start, end - start));
      name.replace(start, end - start, "N");
      return number;
    }
    start = end + 1;
  }
  return -1;
}

/// "l0.norm" of layer 0 as "lN.norm".
std::string with_layer(std::string parameter, int64_t number) {
  const std::string prefix = fmt::format("l{}.", number);
  if (parameter.starts_with(prefix)) parameter.replace(1, prefix.size() - 2, "N");
  return parameter;
}

/// "0..3, 5".
std::string ranges_text(const std::vector<int64_t>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += text.empty() ? "" : ", ";
    text += end - i == 1 ? fmt::format("{}", numbers[i])
                         : fmt::format("{}..{}", numbers[i], numbers[end - 1]);
    i = end;
  }
  return text;
}

/// Lines that are the same for several numbers N, in order of their first.
class FoldedLines {
 public:
  void add(std::string line, int64_t number) {
    auto it = std::ranges::find(lines_, line, &Line::text);
    if (it == lines_.end()) it = lines_.insert(it, Line{std::move(line), {}});
    if (number >= 0) it->numbers.push_back(number);
  }
  std::string text() const {
    std::string out;
    for (const Line& line : lines_) {
      out += "  " + line.text;
      if (!line.numbers.empty()) out += fmt::format("   (N = {})", ranges_text(line.numbers));
      out += '\n';
    }
    return out;
  }

 private:
  struct Line {
    std::string text;
    std::vector<int64_t> numbers;
  };
  std::vector<Line> lines_;
};

std::string tensors_text(const std::vector<TensorUse>& tensors) {
  FoldedLines lines;
  for (const TensorUse& use : tensors) {
    std::string name = use.tensor;
    const int64_t number = take_number(name);
    std::string line = fmt::format("{} {}{}", name, use.dtype, use.shape);
    if (use.stack > 0) line += fmt::format(", {} tensors stacked", use.stack);
    for (const std::string& step : use.steps) line += ", " + step;
    lines.add(line + " -> @" + with_layer(use.parameter, number), number);
  }
  return lines.text();
}

std::string unused_text(const std::vector<UnusedTensor>& unused) {
  FoldedLines lines;
  for (const UnusedTensor& tensor : unused) {
    std::string name = tensor.tensor;
    const int64_t number = take_number(name);
    lines.add(fmt::format("{}: {}", name, tensor.why), number);
  }
  return lines.text();
}

}  // namespace

std::string explain_text(const Explanation& e) {
  std::string read, ignored, model;
  for (const KeyUse& key : e.keys) {
    const std::string start = fmt::format("  {} = {}", key.key, key.value);
    if (!key.ignored.empty()) {
      ignored += fmt::format("{}: {}\n", start, key.ignored);
    } else if (key.attributes.empty()) {
      read += fmt::format("{} -> {}\n", start,
                          key.fixed ? "read; no other value fits the rest of the file"
                                    : "read; decides nothing here");
    } else {
      read += fmt::format("{} -> {}\n", start, fmt::join(key.attributes, ", "));
    }
  }
  for (const Attribute& a : e.model) model += fmt::format("  {} = {}\n", a.name, a.text());
  std::string out = fmt::format("keys of {} and what they decide\n{}", e.file, read);
  const auto section = [&](const char* title, const std::string& lines) {
    if (!lines.empty()) out += fmt::format("{}\n{}", title, lines);
  };
  section("keys that are ignored", ignored);
  section("the model they describe, with defaults", model);
  section("tensors and the parameters they become", tensors_text(e.tensors));
  section("tensors that are not used", unused_text(e.unused));
  return out;
}

ordered_json explain_json(const Explanation& e) {
  ordered_json keys = ordered_json::array();
  for (const KeyUse& key : e.keys) {
    ordered_json entry = {{"key", key.key}, {"value", key.value}, {"attributes", key.attributes}};
    if (key.fixed) entry["fixed"] = true;
    if (!key.ignored.empty()) entry["ignored"] = key.ignored;
    keys.push_back(std::move(entry));
  }
  ordered_json model;
  for (const Attribute& a : e.model) {
    model[a.name] = a.values.size() == 1 ? ordered_json(a.values[0]) : ordered_json(a.values);
  }
  ordered_json tensors = ordered_json::array();
  for (const TensorUse& use : e.tensors) {
    tensors.push_back({{"tensor", use.tensor},
                       {"stack", use.stack},
                       {"dtype", use.dtype},
                       {"shape", use.shape},
                       {"steps", use.steps},
                       {"parameter", use.parameter}});
  }
  ordered_json unused = ordered_json::array();
  for (const UnusedTensor& tensor : e.unused) {
    unused.push_back({{"tensor", tensor.tensor}, {"why", tensor.why}});
  }
  return {{"schema", 1},
          {"config", e.file},
          {"keys", keys},
          {"model", model},
          {"tensors", tensors},
          {"unused_tensors", unused}};
}

}  // namespace shunt
