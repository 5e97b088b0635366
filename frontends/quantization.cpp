// Entry point: leaves_out(). Tested by tests/frontends/quantization_test.cpp.
#include "frontends/quantization.h"

#include <algorithm>

namespace shunt {

namespace {

std::vector<std::string_view> words_of(std::string_view path) {
  std::vector<std::string_view> words;
  while (!path.empty()) {
    const size_t dot = path.find('.');
    words.push_back(path.substr(0, dot));
    path.remove_prefix(dot == path.npos ? path.size() : dot + 1);
  }
  return words;
}

}  // namespace

std::string_view method_name(Quantization::Method method) {
  switch (method) {
    case Quantization::Method::none: return "none";
    case Quantization::Method::fp8: return "fp8";
    case Quantization::Method::mxfp4: return "mxfp4";
  }
  return "";
}

bool leaves_out(const Quantization& quantization, std::string_view tensor) {
  const std::vector<std::string_view> path = words_of(tensor);
  const auto same = [](std::string_view pattern, std::string_view word) {
    return pattern == "*" || word == "*" || pattern == word;
  };
  return std::ranges::any_of(quantization.left_out, [&](const std::string& entry) {
    const std::vector<std::string_view> words = words_of(entry);
    if (words.empty() || words.size() > path.size()) return false;
    // The last word of a tensor's path is not the module's: "...gate_proj.weight".
    const auto module_end = path.end() - 1;
    const bool begins =
        std::ranges::equal(words.begin(), words.end(), path.begin(),
                           path.begin() + static_cast<std::ptrdiff_t>(words.size()), same);
    const bool ends = words.size() < path.size() &&
                      std::ranges::equal(words.begin(), words.end(),
                                         module_end - static_cast<std::ptrdiff_t>(words.size()),
                                         module_end, same);
    return begins || ends;
  });
}

}  // namespace shunt
