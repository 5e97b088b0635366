// The only file that calls NVRTC. Entry point: jit::compile. Covered by
// tests/runtime/jit/jit_test.cpp.
#include "runtime/jit/nvrtc.h"

#include <nvrtc.h>

#include <charconv>
#include <memory>

#include "ir/error.h"

namespace shunt::jit {

namespace {

void check(nvrtcResult result, const char* call) {
  if (result == NVRTC_SUCCESS) return;
  throw DeviceError(fmt::format("{} failed: {}", call, nvrtcGetErrorString(result)));
}

/// The integer that ends right before `marker`, e.g. 34 in "Used 34 registers" for " registers"; 0
/// if absent.
int number_before(const std::string& text, const std::string& marker) {
  const size_t end = text.find(marker);
  if (end == std::string::npos) return 0;
  size_t begin = end;
  while (begin > 0 && text[begin - 1] >= '0' && text[begin - 1] <= '9') --begin;
  int value = 0;
  std::from_chars(text.data() + begin, text.data() + end, value);
  return value;
}

struct DestroyProgram {
  void operator()(nvrtcProgram program) const { nvrtcDestroyProgram(&program); }
};
using Program = std::unique_ptr<std::remove_pointer_t<nvrtcProgram>, DestroyProgram>;

}  // namespace

std::string compiler_version() {
  int major = 0, minor = 0;
  check(nvrtcVersion(&major, &minor), "nvrtcVersion");
  return fmt::format("nvrtc {}.{}", major, minor);
}

std::vector<std::string> compiler_options(const std::string& target) {
  return {"-arch=" + target, "-std=c++20", "-default-device", "--ptxas-options=-v"};
}

Compiled compile(const std::string& name, const std::string& source,
                 std::span<const Header> headers, const std::vector<std::string>& options) {
  std::vector<const char*> names, texts, flags;
  for (const Header& h : headers) {
    names.push_back(h.name.c_str());
    texts.push_back(h.text.c_str());
  }
  for (const std::string& option : options) flags.push_back(option.c_str());

  nvrtcProgram raw = nullptr;
  check(nvrtcCreateProgram(&raw, source.c_str(), (name + ".cu").c_str(),
                           static_cast<int>(names.size()), texts.data(), names.data()),
        "nvrtcCreateProgram");
  const Program program(raw);
  const nvrtcResult result =
      nvrtcCompileProgram(program.get(), static_cast<int>(flags.size()), flags.data());

  Compiled out;
  size_t size = 0;
  check(nvrtcGetProgramLogSize(program.get(), &size), "nvrtcGetProgramLogSize");
  out.log.resize(size);
  check(nvrtcGetProgramLog(program.get(), out.log.data()), "nvrtcGetProgramLog");
  while (!out.log.empty() && (out.log.back() == '\0' || out.log.back() == '\n')) out.log.pop_back();
  if (result != NVRTC_SUCCESS) {
    if (out.log.empty()) out.log = nvrtcGetErrorString(result);
    return out;
  }
  check(nvrtcGetCUBINSize(program.get(), &size), "nvrtcGetCUBINSize");
  out.cubin.resize(size);
  check(nvrtcGetCUBIN(program.get(), out.cubin.data()), "nvrtcGetCUBIN");
  out.ok = true;
  return out;
}

Resources parse_resources(const std::string& log) {
  return {number_before(log, " registers"), number_before(log, " bytes spill stores"),
          number_before(log, " bytes stack frame"), number_before(log, " bytes smem")};
}

}  // namespace shunt::jit
