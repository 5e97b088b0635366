// Every host kernel, through lowering and a Session, against the evaluator.
#include <gtest/gtest.h>

#include <set>

#include "ir/error.h"
#include "ir/module.h"
#include "tests/kernels/op_runner.h"

namespace shunt::test {

void PrintTo(const OpCase& c, std::ostream* out) { *out << c.name; }

namespace {

std::vector<OpCase> cpu_cases() {
  std::vector<OpCase> cases;
  for (const OpCase& c : op_cases()) {
    if (c.cpu) cases.push_back(c);
  }
  return cases;
}

class CpuOps : public testing::TestWithParam<OpCase> {};

TEST_P(CpuOps, MatchTheEvaluator) {
  CaseRunner runner(GetParam(), "cpu");
  for (LoweredCase& c : runner.lower_all()) {
    for (const std::string& line : runner.run(std::move(c), scratch_plan())) ADD_FAILURE() << line;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuOps, testing::ValuesIn(cpu_cases()),
                         [](const auto& info) { return info.param.name; });

/// No op of @step or @sample is left out, on either target.
TEST(OpCases, HoldEveryOp) {
  std::set<std::string_view> all, cpu;
  for (const OpCase& c : op_cases()) {
    const auto module = ir::parse(c.module);
    for (const auto& graph : module->graphs) {
      for (const auto& op : graph->ops) {
        all.insert(op->info().name);
        if (c.cpu) cpu.insert(op->info().name);
      }
    }
  }
  // Ops of @load that become file reads: tests/codegen/lower_load_test.cpp.
  // Collectives are no kernels: tests/tools/mesh_test.cpp.
  const std::set<std::string_view> elsewhere = {"checkpoint", "transpose",  "dequantize",
                                                "all_reduce", "all_gather", "reduce_scatter",
                                                "dispatch",   "combine"};
#define SHUNT_CHECK_OP(name, attrs)                      \
  if (!elsewhere.contains(#name)) {                      \
    EXPECT_TRUE(all.contains(#name)) << #name;           \
    EXPECT_TRUE(cpu.contains(#name)) << #name << " cpu"; \
  }
  SHUNT_OPS(SHUNT_CHECK_OP)
#undef SHUNT_CHECK_OP
}

/// Every row of the kernel table is run by some case: those of GPUs by op_gpu_test.cpp.
TEST(OpCases, TakeEveryRow) {
  for (const char* target : {"cpu", "sm_90a", "sm_80"}) {
    const bool cpu = find_target(target).is_cpu();
    std::set<std::string> missing;
    for (const codegen::KernelImpl& row : codegen::all_kernels()) {
      if (row.name.ends_with(".cpu") == cpu) missing.emplace(row.name);
    }
    missing.erase("transpose.cpu");  // @load: a file read
    for (const char* collective :
         {"all_reduce.comm", "all_gather.comm", "reduce_scatter.comm", "dispatch.alltoall",
          "combine.alltoall", "dispatch.peer", "combine.peer", "dispatch.peer_lines",
          "combine.peer_lines", "all_reduce.peer", "all_reduce.peer_sliced"})
      missing.erase(collective);
    for (const OpCase& c : op_cases()) {
      if (cpu && !c.cpu) continue;
      for (const LoweredCase& l : CaseRunner(c, target).lower_all()) {
        for (const Program& p : l.lowered.plan.programs) {
          for (const Step& s : p.steps) missing.erase(s.name);
        }
      }
    }
    EXPECT_EQ(missing, std::set<std::string>{}) << target;
  }
}

}  // namespace
}  // namespace shunt::test
