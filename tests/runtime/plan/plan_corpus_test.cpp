// Runs the inputs that fuzzing kept: each is a valid plan or a UserError, never a crash or an
// InternalError.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "ir/error.h"
#include "runtime/plan/plan.h"
#include "tests/paths.h"

namespace shunt {
namespace {

TEST(PlanCorpus, NoInputEscapes) {
  int inputs = 0, valid = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(source_dir()) +
                                                               "/tests/data/fuzz/plan")) {
    SCOPED_TRACE(entry.path().string());
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    ++inputs;
    try {
      const Plan plan = plan_from_json(text);
      validate(plan);
      EXPECT_TRUE(plan_from_json(to_json(plan)) == plan);
      ++valid;
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find("plan.json"), std::string::npos);
    }
  }
  EXPECT_GE(inputs, 5);
  EXPECT_GE(valid, 1);  // tiny.json: otherwise the corpus says nothing about validate()
}

}  // namespace
}  // namespace shunt
