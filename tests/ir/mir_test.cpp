// Every case of tests/ir/ops/*.mir: good modules round-trip and evaluate, bad ones fail by the rule
// they name.
#include <gtest/gtest.h>

#include <cctype>
#include <filesystem>
#include <fstream>
#include <set>

#include "ir/error.h"
#include "ir/module.h"
#include "tests/mir_cases.h"
#include "tests/paths.h"

namespace shunt {
namespace {

const std::string kCases = std::string(source_dir()) + "/tests/ir/ops";

class MirOps : public testing::TestWithParam<MirCase> {};

TEST_P(MirOps, RoundTripsOrFails) {
  const MirCase& c = GetParam();
  const auto parse_and_verify = [&]() {
    auto module = ir::parse(c.input);
    ir::verify(*module);
    return module;
  };
  if (!c.error.empty()) {
    try {
      parse_and_verify();
      FAIL() << c.file << ":" << c.line << ": no error, expected: " << c.error;
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find(c.error), std::string::npos)
          << c.file << ":" << c.line << "\n  error:    " << e.what() << "\n  expected: " << c.error;
    }
    return;
  }
  const auto module = parse_and_verify();
  const std::string text = ir::print(*module);
  const auto again = ir::parse(text);
  EXPECT_NO_THROW(ir::verify(*again));
  EXPECT_EQ(ir::print(*again), text) << c.file << ":" << c.line;
  EXPECT_TRUE(compare_modules_by_evaluation(*module, *again)) << c.file << ":" << c.line;
  for (const auto& graph : module->graphs) {
    for (const auto& op : graph->ops) {
      const ir::Cost cost = op->info().cost(*op);
      const DimEnv dims{{"R", 3}, {"S", 2}, {"T", 5}};
      EXPECT_GT(cost.bytes.evaluate(dims), 0) << ir::print(*op);
      EXPECT_GE(cost.flops.evaluate(dims), 0) << ir::print(*op);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, MirOps, testing::ValuesIn(read_mir_cases(kCases)),
                         mir_case_test_name);

/// "rms_norm (C1)" of every case that must fail.
std::set<std::string> failing_rules() {
  std::set<std::string> rules;
  for (const MirCase& c : read_mir_cases(kCases)) {
    if (!c.error.empty()) rules.insert(c.error.substr(0, c.error.find(':')));
  }
  return rules;
}

/// "C1", "C2", ... as they stand in a comment.
std::set<std::string> labels(const std::string& comment) {
  std::set<std::string> found;
  for (size_t at = comment.find(" C"); at != std::string::npos; at = comment.find(" C", at + 1)) {
    size_t end = at + 2;
    while (end < comment.size() && std::isdigit(static_cast<unsigned char>(comment[end]))) ++end;
    if (end > at + 2) found.insert(comment.substr(at + 1, end - at - 1));
  }
  return found;
}

/// The rules that the comments above the infer_ functions list, and C0 of every op.
std::set<std::string> documented_rules() {
  const std::string start = "std::vector<Type> infer_";
  std::set<std::string> rules;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(source_dir()) + "/ir/ops")) {
    std::ifstream in(entry.path());
    std::string comment;
    for (std::string line; std::getline(in, line);) {
      if (line.rfind("// ", 0) == 0) {
        comment += line;
        continue;
      }
      if (line.rfind(start, 0) == 0) {
        const std::string op = line.substr(start.size(), line.find('(') - start.size());
        rules.insert(op + " (C0)");
        for (const std::string& label : labels(comment)) rules.insert(op + " (" + label + ")");
      }
      comment.clear();
    }
  }
  return rules;
}

TEST(MirCoverage, EveryRuleHasACaseThatMustFail) {
  EXPECT_GT(documented_rules().size(), 80u);
  const auto tested = failing_rules(), documented = documented_rules();
  for (const std::string& rule : documented)
    EXPECT_TRUE(tested.contains(rule)) << rule << " has no case";
  for (const std::string& rule : tested)
    EXPECT_TRUE(documented.contains(rule)) << rule << " is not in a comment";
}

TEST(MirCoverage, EveryOpHasACaseThatMustPass) {
  std::set<std::string> seen;
  for (const MirCase& c : read_mir_cases(kCases)) {
    if (!c.error.empty()) continue;
    const auto module = ir::parse(c.input);
    for (const auto& graph : module->graphs) {
      for (const auto& op : graph->ops) seen.insert(std::string(op->info().name));
    }
  }
#define SHUNT_CHECK_SEEN(name, attrs) EXPECT_TRUE(seen.contains(#name)) << #name;
  SHUNT_OPS(SHUNT_CHECK_SEEN)
#undef SHUNT_CHECK_SEEN
}

}  // namespace
}  // namespace shunt
