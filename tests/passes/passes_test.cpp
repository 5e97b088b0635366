// Every case of tests/passes/*.mir: golden text, print and parse, verification, and the same
// meaning before and after.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "passes/runner.h"
#include "tests/mir_cases.h"
#include "tests/paths.h"

namespace shunt::passes {
namespace {

std::span<const Pass> passes_of(const MirCase& mir_case) {
  const std::span<const Pass> all = pipeline();
  if (mir_case.pass == "pipeline") return all;
  const auto it =
      std::find_if(all.begin(), all.end(), [&](const Pass& p) { return p.name == mir_case.pass; });
  if (it == all.end()) return {};
  return all.subspan(static_cast<size_t>(it - all.begin()), 1);
}

class PassCase : public testing::TestWithParam<MirCase> {};

TEST_P(PassCase, Runs) {
  const MirCase& c = GetParam();
  const auto passes = passes_of(c);
  ASSERT_FALSE(passes.empty()) << "no pass named '" << c.pass << "'";
  const auto before = ir::parse(c.input);
  const auto after = ir::clone(*before);

  const Target& target = find_target(c.name.ends_with("_cpu") ? "cpu" : "sm_90a");
  PassOptions options;
  options.check_changed = true;
  options.mesh = c.mesh;
  if (c.alltoall) options.moe_comm = MoeComm::alltoall;
  const RooflineCostModel cost(target);
  const auto records = run_passes(*after, passes, {target, options, cost});
  const bool changed =
      std::any_of(records.begin(), records.end(), [](auto& r) { return r.changed; });

  const std::string text = ir::print(*after);
  if (update_expectations()) rewrite_expectation(c, text == ir::print(*before) ? c.input : text);
  const auto again = ir::parse(text);
  ir::verify(*again);
  EXPECT_EQ(ir::print(*again), text);
  EXPECT_TRUE(compare_modules_by_evaluation(*before, *after));
  if (update_expectations()) return;
  EXPECT_EQ(changed, !c.unchanged);
  ASSERT_TRUE(c.unchanged || c.expect) << "the case lacks // EXPECT";
  EXPECT_EQ(text, c.unchanged ? ir::print(*before) : *c.expect);
}

INSTANTIATE_TEST_SUITE_P(Mir, PassCase,
                         testing::ValuesIn(read_mir_cases(std::string(source_dir()) +
                                                          "/tests/passes")),
                         mir_case_test_name);

}  // namespace
}  // namespace shunt::passes
