// Compiles kernel rows without a GPU: a module in text form goes through every row of a family that
// supports one of its ops, and each kernel launched is compiled by NVRTC.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "codegen/kernel.h"
#include "codegen/kernel_headers.h"
#include "ir/error.h"
#include "runtime/jit/jit.h"

namespace shunt::codegen {

/// Records what rows launch. Buffers are not planned: an argument carries its value's name only.
class RecordingSteps : public StepBuilder {
 public:
  struct Launched {
    std::string row;
    KernelSource kernel;
    LaunchSpec spec;
  };

  explicit RecordingSteps(const Context& context) : context_(context) {}
  const Context& context() const override { return context_; }
  Arg arg(const ir::Value* value) override {
    Arg arg;
    if (value == nullptr) return arg;
    arg.kind = value->is_state() ? Arg::Kind::state : Arg::Kind::buffer;
    arg.index = 0;
    return arg;
  }
  Arg scratch(int64_t bytes) override {
    EXPECT_GT(bytes, 0);
    Arg arg;
    arg.kind = Arg::Kind::buffer;
    arg.index = 1;
    return arg;
  }
  Arg dim_ptr(std::string_view) override {
    Arg arg;
    arg.kind = Arg::Kind::dim_ptr;
    arg.index = 0;
    return arg;
  }
  Arg route_counts(int64_t experts) override { return scratch(experts * 8); }
  Arg peer_buffer(std::string_view role, int64_t bytes) override {
    EXPECT_GT(bytes, 0) << role;
    Arg arg;
    arg.kind = Arg::Kind::buffer;
    arg.index = 2;
    return arg;
  }
  Arg peers(MeshAxis over, const Arg& buffer) override {
    Arg arg;
    arg.kind = Arg::Kind::peers;
    arg.index = buffer.index;
    arg.over = over;
    return arg;
  }
  void launch(const KernelSource& kernel, LaunchSpec spec) override {
    for (const DimExpr& n : spec.grid) EXPECT_GE(n.evaluate(context_.upper), 1) << kernel.name;
    EXPECT_LE(spec.smem, context_.target.smem_per_block) << kernel.name;
    // Plans for sm_80 run on 8.6 and 8.9, too.
    if (context_.target.sm < 90 && row != "attention.latent") {
      EXPECT_LE(spec.smem, 99 * 1024) << kernel.name;
    }
    EXPECT_EQ(spec.threads, kernel.max_threads) << kernel.name;
    launched.push_back({row, kernel, std::move(spec)});
  }
  void host_call(std::string_view, std::vector<Arg>) override { ADD_FAILURE() << "host call"; }
  void matmul(Matmul) override {}
  void copy(Copy) override {}
  void fill(Fill) override {}
  void collective(Collective) override {}
  Arg rank_value(const std::vector<int64_t>& by_rank) override { return i32(by_rank.at(0)); }

  std::string row;
  std::vector<Launched> launched;

 private:
  const Context& context_;
};

/// A folder for the kernels of one test program, shared by its tests.
inline const std::filesystem::path& test_kernel_cache() {
  static const std::filesystem::path folder = [] {
    std::string name = (std::filesystem::temp_directory_path() / "shunt_rows_XXXXXX").string();
    SHUNT_CHECK(mkdtemp(name.data()) != nullptr, "cannot make {}", name);
    struct Remove {
      std::filesystem::path folder;
      ~Remove() { std::filesystem::remove_all(folder); }
    };
    static Remove remove{name};
    return remove.folder;
  }();
  return folder;
}

struct CompiledRows {
  std::set<std::string> rows;                              // names of the rows that supported an op
  std::vector<std::pair<std::string, JitResult>> kernels;  // row name, kernel
};

/// Compiles what every row of `rows` launches for every op of `module_text`, for one target.
inline CompiledRows compile_rows(const std::vector<KernelImpl>& rows,
                                 const std::string& module_text, const std::string& target,
                                 bool decode = false, bool peer_memory = true) {
  const auto module = ir::parse(module_text);
  ir::verify(*module);
  CompiledRows result;
  std::vector<JitSource> sources;
  std::vector<std::string> names;
  for (const auto& graph : module->graphs) {
    Context context{find_target(target), *module, *graph, {}, decode, module->page_size, 0};
    for (const DimDecl& d : module->dims) context.upper[d.name] = d.max;
    context.max_model_len = 4096;
    context.peer_memory = peer_memory;
    RecordingSteps steps(context);
    for (const auto& op : graph->ops) {
      for (const KernelImpl& row : rows) {
        if (row.op != op->kind || !row.supports(*op, context)) continue;
        steps.row = row.name;
        const size_t before = steps.launched.size();
        row.emit(*op, steps);
        EXPECT_GT(steps.launched.size(), before) << row.name;
        result.rows.insert(std::string(row.name));
      }
    }
    for (const auto& l : steps.launched) {
      sources.push_back({l.kernel.name, l.kernel.text()});
      names.push_back(l.row);
    }
  }
  JitOptions options;
  options.cache_dir = test_kernel_cache();
  options.headers = kernel_headers();
  options.threads = 2;
  options.target = target;
  std::vector<JitResult> compiled = compile_all(sources, options);
  for (size_t i = 0; i < compiled.size(); ++i) {
    EXPECT_FALSE(compiled[i].cubin.empty()) << names[i];
    result.kernels.emplace_back(names[i], std::move(compiled[i]));
  }
  return result;
}

/// compile_rows for both GPU targets; every row in `expected` must have taken part, and no kernel
/// may spill.
inline void expect_rows_compile(const std::vector<KernelImpl>& rows, const std::string& module_text,
                                const std::set<std::string>& expected, bool decode = false,
                                bool peer_memory = true) {
  for (const char* target : {"sm_90a", "sm_80"}) {
    const CompiledRows compiled = compile_rows(rows, module_text, target, decode, peer_memory);
    EXPECT_EQ(compiled.rows, expected) << target;
    for (const auto& [row, kernel] : compiled.kernels) {
      EXPECT_EQ(kernel.spill_bytes, 0)
          << row << " on " << target << " with " << kernel.registers << " registers\n"
          << kernel.source;
      if (std::getenv("SHUNT_TEST_VERBOSE") != nullptr) {
        fmt::print("{:28} {:7} {:3} registers {:6} bytes smem {:6.3f} s\n", row, target,
                   kernel.registers, kernel.smem_bytes, kernel.seconds);
      }
    }
  }
}

}  // namespace shunt::codegen
