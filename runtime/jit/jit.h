// CUDA C++ to cubins with NVRTC, several kernels at a time, over a cache on disk. Needs no GPU and
// no driver.
//
// An entry of the cache is named by the digest of everything that decides its contents: the NVRTC
// version, the options, the source, and the text of every header it reaches. An entry is written to
// a temporary folder and renamed, so a reader never sees half of one; it carries digests of its
// files, which are checked on every read.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

/// A header that sources may #include by `name`; the text is not copied and must outlive the calls.
struct EmbeddedHeader {
  std::string_view name;
  std::string_view text;
};

struct JitSource {
  std::string name;  // for messages; the symbol to load
  std::string text;  // CUDA C++
};

struct JitOptions {
  std::filesystem::path cache_dir;  // made with mode 0700 if missing
  std::span<const EmbeddedHeader> headers;
  int threads = 1;            // compilations at a time
  std::string target;         // "sm_90a"
  bool allow_compile = true;  // false (sealed): what is not in the cache is an error
};

struct JitResult {
  std::string digest;  // of source, headers, options and compiler: the entry's name
  std::string source;  // the full text compiled, without the headers
  std::vector<char> cubin;
  int registers = 0;    // a thread
  int spill_bytes = 0;  // stored to local memory, a thread
  int stack_bytes = 0;
  int smem_bytes = 0;  // static shared memory a block
  bool from_cache = false;
  double seconds = 0;  // spent compiling; 0 if from the cache
};

/// Compiles every source, or finds it in the cache; results in the order of `sources`. Equal
/// sources are compiled once. Throws UserError that names the kernel: the compiler's log and the
/// path where the source was kept if it does not compile; what is missing if `allow_compile` is
/// false; the folder if the cache cannot be written.
std::vector<JitResult> compile_all(std::span<const JitSource> sources, const JitOptions& options);

/// The digest compile_all would give: what names kernels/<digest>.cubin in a plan.
std::string jit_digest(const JitSource& source, const JitOptions& options);

}  // namespace shunt
