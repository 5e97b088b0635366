// Reads produced for stacks, slices, concatenations and transpositions, checked by carrying them
// out on an array.
#include "codegen/lower_load.h"

#include <gtest/gtest.h>

#include <cstring>

#include "ir/error.h"
#include "ir/module.h"
#include "ir/target.h"

namespace shunt::codegen {
namespace {

/// Runs the Read steps of the one store in `text`; file f, byte offset o holds the 4-byte number f
/// * 1000 + o / 4.
std::vector<int32_t> load(const std::string& text, int64_t elements) {
  const auto module = ir::parse(text);
  LowerOptions options{find_target("cpu"), {}, [](const std::string& name) {
                         return TensorSource{name.back() - '0', 0, 0};
                       }};
  const ir::Op& store = *module->find_graph("load")->ops.back();
  const Arg to{.kind = Arg::Kind::buffer, .index = 0, .dim = {}, .text = {}};
  std::vector<int32_t> memory(elements, -1);
  for (const Step& step : lower_store(*store.operand(0), to, options, nullptr)) {
    const Read& r = std::get<Read>(step.what);
    for (int64_t row = 0; row < r.rows; ++row) {
      for (int64_t c = 0; c < r.row_bytes / 4; ++c) {
        const auto value =
            static_cast<int32_t>(r.file * 1000 + (r.from_offset + row * r.from_pitch +
                                                  c * (r.from_stride == 0 ? 4 : r.from_stride)) /
                                                     4);
        const int64_t at = r.transpose_rows > 0 ? r.to.offset + c * r.to_pitch + row * 4
                                                : r.to.offset + row * r.to_pitch + c * 4;
        memory.at(at / 4) = value;
      }
    }
  }
  return memory;
}

TEST(LowerLoad, StackedExpertsConcatenatedPerExpert) {
  // Two experts of [2, 3]: gate from file 0/1 ("g0", "g1"), up from the same numbers' "u" tensors
  // of another stack.
  const auto got = load(R"(module @m stage(logical)
param @w : f32[2, 4, 3]
graph @load() {
  %g = checkpoint {tensor = "g*", stack = 2, dtype = f32, shape = [2, 2, 3]} : f32[2, 2, 3]
  %u = checkpoint {tensor = "5*", stack = 2, dtype = f32, shape = [2, 2, 3]} : f32[2, 2, 3]
  %w = concat %g, %u {axis = 1} : f32[2, 4, 3]
  store %w, @w
  return
})",
                        24);
  const std::vector<int32_t> e0 = {0, 1, 2, 3, 4, 5}, e1 = {1000, 1001, 1002, 1003, 1004, 1005};
  std::vector<int32_t> want;
  for (const auto* e : {&e0, &e0, &e1, &e1}) want.insert(want.end(), e->begin(), e->end());
  EXPECT_EQ(got, want);
}

TEST(LowerLoad, SliceOfAFusedTensorAndTranspose) {
  EXPECT_EQ(load(R"(module @m stage(logical)
param @w : f32[2, 2, 2]
graph @load() {
  %f = checkpoint {tensor = "f0", dtype = f32, shape = [2, 4, 2]} : f32[2, 4, 2]
  %w = slice %f {axis = 1, begin = 2, end = 4} : f32[2, 2, 2]
  store %w, @w
  return
})",
                 8),
            (std::vector<int32_t>{4, 5, 6, 7, 12, 13, 14, 15}));
  EXPECT_EQ(load(R"(module @m stage(logical)
param @w : f32[3, 2]
graph @load() {
  %f = checkpoint {tensor = "f0", dtype = f32, shape = [2, 3]} : f32[2, 3]
  %w = transpose %f : f32[3, 2]
  store %w, @w
  return
})",
                 6),
            (std::vector<int32_t>{0, 3, 1, 4, 2, 5}));
}

TEST(LowerLoad, ColumnSlicesBecomeStridedRows) {
  EXPECT_EQ(load(R"(module @m stage(logical)
param @w : f32[2, 4]
graph @load() {
  %a = checkpoint {tensor = "f0", dtype = f32, shape = [2, 6]} : f32[2, 6]
  %l = slice %a {axis = 1, begin = 1, end = 3} : f32[2, 2]
  %b = checkpoint {tensor = "f1", dtype = f32, shape = [2, 2]} : f32[2, 2]
  %w = concat %l, %b {axis = 1} : f32[2, 4]
  store %w, @w
  return
})",
                 8),
            (std::vector<int32_t>{1, 2, 1000, 1001, 7, 8, 1002, 1003}));
}

TEST(LowerLoad, EverySecondColumnOfExpertsTransposed) {
  // [E = 2, H = 3, 2I = 4] -> up [E, I = 2, H = 3]: columns 1 and 3.
  const auto got = load(R"(module @m stage(logical)
param @w : f32[2, 2, 3]
graph @load() {
  %a = checkpoint {tensor = "a0", dtype = f32, shape = [2, 3, 4]} : f32[2, 3, 4]
  %p = reshape %a {shape = [2, 3, 2, 2]} : f32[2, 3, 2, 2]
  %s = slice %p {axis = 3, begin = 1, end = 2} : f32[2, 3, 2, 1]
  %r = reshape %s {shape = [2, 3, 2]} : f32[2, 3, 2]
  %t = transpose %r : f32[2, 2, 3]
  store %t, @w
  return
})",
                        12);
  EXPECT_EQ(got, (std::vector<int32_t>{1, 5, 9, 3, 7, 11, 13, 17, 21, 15, 19, 23}));
}

TEST(LowerLoad, RowsOfHeadsOutOfGroups) {
  // [kv = 2, q, q, k, v heads of 1 row][2 columns]: q is rows 0, 1, 4, 5 and v rows 3 and 7.
  const auto got = load(R"(module @m stage(logical)
param @w : f32[6, 2]
graph @load() {
  %a = checkpoint {tensor = "a0", dtype = f32, shape = [8, 2]} : f32[8, 2]
  %p = reshape %a {shape = [2, 4, 1, 2]} : f32[2, 4, 1, 2]
  %q = slice %p {axis = 1, begin = 0, end = 2} : f32[2, 2, 1, 2]
  %qr = reshape %q {shape = [4, 2]} : f32[4, 2]
  %v = slice %p {axis = 1, begin = 3, end = 4} : f32[2, 1, 1, 2]
  %vr = reshape %v {shape = [2, 2]} : f32[2, 2]
  %w = concat %qr, %vr {axis = 0} : f32[6, 2]
  store %w, @w
  return
})",
                        12);
  EXPECT_EQ(got, (std::vector<int32_t>{0, 1, 2, 3, 8, 9, 10, 11, 6, 7, 14, 15}));
}

TEST(LowerLoad, HalvesOfTransposedExpertsInOne) {
  // Gate and up of [E = 2, H = 2, 2I = 4], transposed and joined again.
  const auto got = load(R"(module @m stage(logical)
param @w : f32[2, 2, 2]
graph @load() {
  %a = checkpoint {tensor = "a0", dtype = f32, shape = [2, 2, 4]} : f32[2, 2, 4]
  %t = transpose %a : f32[2, 4, 2]
  %u = slice %t {axis = 1, begin = 2, end = 4} : f32[2, 2, 2]
  store %u, @w
  return
})",
                        8);
  EXPECT_EQ(got, (std::vector<int32_t>{2, 6, 3, 7, 10, 14, 11, 15}));
}

}  // namespace
}  // namespace shunt::codegen
