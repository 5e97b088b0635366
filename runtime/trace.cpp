// Sums and text of step times. Entry points totals_by_name(), trace_json(); tested by
// tests/runtime/session/trace_test.cpp.
#include "runtime/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace shunt {

std::vector<StepTotal> totals_by_name(std::span<const StepTime> steps) {
  std::map<std::string, StepTotal> sums;
  for (const StepTime& s : steps) {
    StepTotal& total = sums[s.name];
    total.name = s.name;
    ++total.calls;
    total.seconds += s.seconds;
    total.bytes += s.bytes;
    total.flops += s.flops;
  }
  std::vector<StepTotal> result;
  for (auto& [name, total] : sums) result.push_back(std::move(total));
  std::stable_sort(result.begin(), result.end(),
                   [](auto& a, auto& b) { return a.seconds > b.seconds; });
  return result;
}

namespace {
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}
}  // namespace

std::string trace_json(std::span<const StepTime> steps, const Target& target) {
  std::string out = "{\"displayTimeUnit\": \"ns\", \"traceEvents\": [";
  double at = 0;
  const char* separator = "\n";
  for (const StepTime& s : steps) {
    const double bandwidth = s.seconds > 0 ? static_cast<double>(s.bytes) / s.seconds : 0;
    const double rate = s.seconds > 0 ? static_cast<double>(s.flops) / s.seconds : 0;
    out += fmt::format(
        "{}{{\"name\": {}, \"cat\": \"step\", \"ph\": \"X\", \"pid\": 0, \"tid\": 0, \"ts\": "
        "{:.3f}, \"dur\": {:.3f}, "
        "\"args\": {{\"loc\": {}, \"bytes\": {}, \"flops\": {}, \"GB/s\": {:.1f}, \"TFLOP/s\": "
        "{:.3f}, "
        "\"bandwidth_share\": {:.4f}, \"matmul_share\": {:.4f}}}}}",
        separator, quoted(s.name), at * 1e6, s.seconds * 1e6, quoted(s.loc), s.bytes, s.flops,
        bandwidth * 1e-9, rate * 1e-12, bandwidth / target.memory_bytes_per_s,
        rate / target.matmul_flops_per_s);
    separator = ",\n";
    at += s.seconds;
  }
  return out + "\n]}\n";
}

}  // namespace shunt
