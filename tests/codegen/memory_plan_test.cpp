#include "codegen/memory_plan.h"

#include <gtest/gtest.h>

#include <random>

#include "ir/error.h"

namespace shunt::codegen {
namespace {

TEST(MemoryPlan, ReusesMemoryOfTheDead) {
  std::vector<Lifetime> v = {{1000, 0, 1, 0}, {1000, 1, 2, 0}, {1000, 2, 3, 0}};
  EXPECT_EQ(plan_memory(v), 2048);
  check_memory(v, 2048);
  EXPECT_EQ(v[0].offset, v[2].offset);
}

TEST(MemoryPlan, RandomGraphsNeverOverlap) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Lifetime> v(random() % 60 + 1);
    int64_t sum = 0, largest = 0;
    for (Lifetime& l : v) {
      l.bytes = random() % 5000;
      l.first = static_cast<int>(random() % 40);
      l.last = l.first + static_cast<int>(random() % 10);
      sum += align_up(l.bytes);
      largest = std::max(largest, align_up(l.bytes));
    }
    const int64_t arena = plan_memory(v);
    check_memory(v, arena);
    EXPECT_LE(arena, sum);
    EXPECT_GE(arena, largest);
  }
}

TEST(MemoryPlan, TheCheckerSeesOverlap) {
  EXPECT_THROW(check_memory({{512, 0, 1, 0}, {512, 1, 2, 256}}, 1024), InternalError);
  EXPECT_NO_THROW(check_memory({{512, 0, 1, 0}, {512, 2, 3, 256}}, 1024));
  EXPECT_THROW(check_memory({{512, 0, 1, 768}}, 1024), InternalError);
  EXPECT_THROW(check_memory({{16, 0, 1, 8}}, 1024), InternalError);
}

}  // namespace
}  // namespace shunt::codegen
