#include "bench/scratch_plan.h"

#include <algorithm>
#include <fstream>
#include <thread>

#include "codegen/kernel_headers.h"
#include "ir/error.h"
#include "runtime/jit/jit.h"
#include "tools/driver.h"

namespace shunt {

namespace fs = std::filesystem;

ScratchPlan::ScratchPlan() {
  std::string name = (fs::temp_directory_path() / "shunt_bench_XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) user_error("cannot make a folder like {}", name);
  path_ = name;
}

ScratchPlan::~ScratchPlan() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

Plan ScratchPlan::compile(const ir::Module& module, const codegen::LowerOptions& options) const {
  codegen::Lowered lowered = codegen::lower(module, options);
  lowered.plan.model.vocab_size = 1;
  std::vector<JitSource> sources;
  for (const codegen::KernelSource& k : lowered.sources) {
    if (k.name.empty()) return std::move(lowered.plan);  // host kernels: the cpu target
    sources.push_back({k.name, k.text()});
  }
  JitOptions jit;
  jit.cache_dir = default_cache_dir() / "kernels";
  jit.target = options.target.name;
  jit.headers = codegen::kernel_headers();
  jit.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const std::vector<JitResult> results = compile_all(sources, jit);
  fs::create_directories(path_ / "kernels");
  for (size_t i = 0; i < results.size(); ++i) {
    lowered.plan.kernels[i].digest = results[i].digest;
    std::ofstream(path_ / "kernels" / (results[i].digest + ".cubin"), std::ios::binary)
        .write(results[i].cubin.data(), static_cast<std::streamsize>(results[i].cubin.size()));
  }
  return std::move(lowered.plan);
}

}  // namespace shunt
