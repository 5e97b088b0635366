// One compilation with NVRTC. Internal to runtime/jit; jit.h is the interface.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace shunt::jit {

struct Header {
  std::string name, text;
};

struct Compiled {
  bool ok = false;
  std::string log;          // warnings, or why it failed; with ptxas's figures
  std::vector<char> cubin;  // empty if !ok
};

/// What ptxas reports of a kernel.
struct Resources {
  int registers = 0, spill_bytes = 0, stack_bytes = 0, smem_bytes = 0;
};

/// "nvrtc 13.0": part of every key.
std::string compiler_version();
/// Options for a target ("sm_90a").
std::vector<std::string> compiler_options(const std::string& target);
/// Never throws for an error in the source: see Compiled::ok. Safe to call from several threads.
Compiled compile(const std::string& name, const std::string& source,
                 std::span<const Header> headers, const std::vector<std::string>& options);
/// Reads the "ptxas info" lines of a log; zeros where it has none. Sums nothing: a source has one
/// kernel.
Resources parse_resources(const std::string& log);

}  // namespace shunt::jit
