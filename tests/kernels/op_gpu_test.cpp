// Every row of the GPU's kernel table against the evaluator. Needs a GPU; with SHUNT_COMPILE_ONLY=1
// it compiles all kernels (into $SHUNT_CACHE_DIR) and runs none. Nothing is read from the source
// tree, so the program can be carried to another machine.
//
//   SHUNT_CACHE_DIR=/tmp/cache kernels_gpu_test --gtest_filter='*attention*' --gtest_brief=1
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <map>

#include "ir/error.h"
#include "runtime/device.h"
#include "tests/kernels/op_runner.h"

namespace shunt::test {

void PrintTo(const OpCase& c, std::ostream* out) { *out << c.name; }

namespace {

bool compile_only() {
  const char* value = std::getenv("SHUNT_COMPILE_ONLY");
  return value != nullptr && std::string(value) == "1";
}

/// The target of the first GPU; SHUNT_TEST_TARGET decides where there is none.
std::string target() {
  const char* value = std::getenv("SHUNT_TEST_TARGET");
  if (value != nullptr) return value;
  if (device_count() == 0) return "sm_90a";
  return device_info(0).sm == 90 ? "sm_90a" : "sm_80";
}

struct ReadyCase {
  std::unique_ptr<CaseRunner> runner;
  std::vector<LoweredCase> lowered;
  std::string error;
};

bool device_lost = false;
std::vector<std::string> failed_lines;

/// Lowers all selected cases and compiles their kernels at once, on all cores.
class AllKernels : public testing::Environment {
 public:
  static std::map<std::string, ReadyCase>& ready() {
    static std::map<std::string, ReadyCase> cases;
    return cases;
  }

  void SetUp() override {
    std::vector<LoweredCase*> lowered;
    for (const OpCase& c : op_cases()) {
      if (!selected(c.name)) continue;
      ReadyCase& r = ready()[c.name];
      try {
        r.runner = std::make_unique<CaseRunner>(c, target());
        r.lowered = r.runner->lower_all();
      } catch (const Error& e) {
        r.error = e.what();
        continue;
      }
      for (LoweredCase& l : r.lowered) lowered.push_back(&l);
    }
    try {
      const size_t kernels = compile_kernels(lowered, target());
      std::printf("%zu kernels for %zu plans of %zu cases on %s\n", kernels, lowered.size(),
                  ready().size(), target().c_str());
      std::fflush(stdout);
    } catch (const Error&) {  // case by case, so that one kernel's error is its own case's
      for (auto& [name, r] : ready()) {
        try {
          std::vector<LoweredCase*> own;
          for (LoweredCase& l : r.lowered) own.push_back(&l);
          compile_kernels(own, target());
        } catch (const Error& e) {
          r.error = e.what();
        }
      }
    }
  }

 private:
  static bool selected(const std::string& name) {
    const auto* unit = testing::UnitTest::GetInstance();
    for (int i = 0; i < unit->total_test_suite_count(); ++i) {
      const auto* suite = unit->GetTestSuite(i);
      for (int j = 0; j < suite->total_test_count(); ++j) {
        const auto* test = suite->GetTestInfo(j);
        if (test->should_run() && std::string(test->name()).ends_with("/" + name)) return true;
      }
    }
    return false;
  }
};

class GpuOps : public testing::TestWithParam<OpCase> {};

TEST_P(GpuOps, MatchTheEvaluator) {
  ReadyCase& r = AllKernels::ready().at(GetParam().name);
  const auto fail = [&](const std::string& line) {
    failed_lines.push_back(line);
    ADD_FAILURE() << line;
  };
  if (!r.error.empty()) return fail(GetParam().name + ": " + r.error);
  if (compile_only()) return;
  for (LoweredCase& c : r.lowered) {
    const std::string label = c.label;
    try {
      for (const std::string& line : r.runner->run(std::move(c), scratch_plan())) fail(line);
    } catch (const DeviceError& e) {
      device_lost = true;
      return fail(GetParam().name + " [" + label + "]: " + e.what());
    } catch (const Error& e) {
      fail(GetParam().name + " [" + label + "]: " + e.what());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GpuOps, testing::ValuesIn(op_cases()),
                         [](const auto& info) { return info.param.name; });

/// A kernel that faults takes the process's CUDA context with it: the cases left are run by a new
/// process.
class Restart : public testing::EmptyTestEventListener {
 public:
  explicit Restart(char** argv) : argv_(argv) {}
  void OnTestEnd(const testing::TestInfo& ended) override {
    if (!device_lost) return;
    std::string filter;
    bool behind = false;
    const auto* unit = testing::UnitTest::GetInstance();
    for (int i = 0; i < unit->total_test_suite_count(); ++i) {
      const auto* suite = unit->GetTestSuite(i);
      for (int j = 0; j < suite->total_test_count(); ++j) {
        const auto* test = suite->GetTestInfo(j);
        if (behind && test->should_run()) {
          filter += std::string(filter.empty() ? "" : ":") + suite->name() + "." + test->name();
        }
        if (test == &ended) behind = true;
      }
    }
    print_failures();
    if (filter.empty()) _exit(1);
    std::printf("the GPU's context is lost: going on in a new process\n");
    std::fflush(nullptr);
    std::error_code ignored;
    std::filesystem::remove_all(scratch_plan(), ignored);
    setenv("SHUNT_TEST_FAILED", "1", 1);
    filter = "--gtest_filter=" + filter;
    char* args[] = {argv_[0], filter.data(), nullptr};
    execv("/proc/self/exe", args);
    _exit(1);
  }
  static void print_failures() {
    for (const std::string& line : failed_lines) std::printf("FAILED %s\n", line.c_str());
    std::fflush(stdout);
  }

 private:
  char** argv_;
};

}  // namespace
}  // namespace shunt::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  using namespace shunt::test;
  if (!testing::GTEST_FLAG(list_tests)) {
    if (!compile_only() && shunt::device_count() == 0) {
      std::fprintf(stderr,
                   "kernels_gpu_test: this machine has no usable GPU (SHUNT_COMPILE_ONLY=1 "
                   "compiles the kernels without one)\n");
      return 1;
    }
    testing::AddGlobalTestEnvironment(new AllKernels);
    testing::UnitTest::GetInstance()->listeners().Append(new Restart(argv));
  }
  const int result = RUN_ALL_TESTS();
  Restart::print_failures();
  return std::getenv("SHUNT_TEST_FAILED") != nullptr ? 1 : result;
}
