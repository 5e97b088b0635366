// Fuzzes the plan reader: any bytes are either a valid plan, which then writes and reads back
// equal, or a UserError. Build: clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I.
// tests/fuzz/fuzz_plan.cpp
//          runtime/plan/*.cpp ir/{dim,types,target,expr}.cpp -lfmt
// Run:   ./fuzz_plan -max_total_time=300 corpus tests/data/fuzz/plan
// What it found is kept in tests/data/fuzz/plan and run by tests/runtime/plan/plan_corpus_test.cpp.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "ir/error.h"
#include "runtime/plan/plan.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const shunt::Plan plan = shunt::plan_from_json(text);
    shunt::validate(plan);
    const std::string again = shunt::to_json(plan);
    if (!(shunt::plan_from_json(again) == plan)) std::abort();
  } catch (const shunt::UserError&) {
    // Anything else that is thrown is a finding.
  }
  return 0;
}
