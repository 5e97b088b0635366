// Reads produced for stacks, slices, concatenations and transpositions, checked by carrying them
// out on an array.
#include "codegen/lower_load.h"

#include <fmt/format.h>
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
  for (const Step& step : lower_store(*store.operand(0), to, options, Mesh{}, 0, nullptr)) {
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

// ---- quantised weights ----

/// What each Read of a quantised weight takes: "tensor+offset/pitch scale+offset/pitch, rows
/// begin:step x count, columns ..., to offset, pitch, transposed".
std::vector<std::string> reads(const std::string& ops, const std::string& shape) {
  const auto module = ir::parse("module @m stage(logical)\nparam @w : bf16[" + shape +
                                "]\ngraph @load() {\n" + ops + "  store %w, @w\n  return\n}");
  LowerOptions options{
      find_target("cpu"), {}, [](const std::string& name) {
        return TensorSource{name[0] == 'p' ? 0 : 1, name.back() == '1' ? 5000 : 0, 0};
      }};
  const Arg to{.kind = Arg::Kind::buffer, .index = 0, .dim = {}, .text = {}};
  std::vector<std::string> out;
  for (const Step& step :
       lower_store(*module->find_graph("load")->ops.back()->operand(0), to, options, Mesh{}, 0, nullptr)) {
    const Read& r = std::get<Read>(step.what);
    const Dequantize& d = r.dequantize.value();
    EXPECT_EQ(r.file, 0);
    EXPECT_EQ(d.scale_file, 1);
    EXPECT_EQ(r.from_stride, 0);
    out.push_back(fmt::format("{}+{}/{} {}+{}/{}, rows {}:{} x {}, columns {}:{} x {}, to {}/{}{}",
                              r.tensor, r.from_offset, r.from_pitch, d.scale_tensor, d.scale_offset,
                              d.scale_pitch, d.first_row, d.row_step, r.rows, d.first_column,
                              d.column_step, r.row_bytes / 2, r.to.offset, r.to_pitch,
                              r.transpose_rows > 0 ? " transposed" : ""));
  }
  return out;
}

using Texts = std::vector<std::string>;

const std::string kBlocks = R"(
  %p = checkpoint {tensor = "p*", stack = 2, dtype = f8e4m3, shape = [2, 6, 8]} : f8e4m3[2, 6, 8]
  %s = checkpoint {tensor = "s*", stack = 2, dtype = f32, shape = [2, 2, 3]} : f32[2, 2, 3]
  %d = dequantize %p, %s {group_rows = 4, group_columns = 3} : bf16[2, 6, 8]
)";

TEST(LowerLoad, QuantisedMatricesOneByOne) {
  EXPECT_EQ(reads(kBlocks + "  %w = reshape %d {shape = [2, 6, 8]} : bf16[2, 6, 8]\n", "2, 6, 8"),
            (Texts{"p0+0/8 s0+0/12, rows 0:1 x 6, columns 0:1 x 8, to 0/16",
                   "p1+5000/8 s1+5000/12, rows 0:1 x 6, columns 0:1 x 8, to 96/16"}));
}

TEST(LowerLoad, SlicesOfQuantisedWeightsNeedNotFallOnGroups) {
  EXPECT_EQ(reads(kBlocks + R"(  %a = slice %d {axis = 1, begin = 3, end = 5} : bf16[2, 2, 8]
  %b = slice %a {axis = 2, begin = 1, end = 6} : bf16[2, 2, 5]
  %c = slice %b {axis = 0, begin = 1, end = 2} : bf16[1, 2, 5]
  %w = transpose %c : bf16[1, 5, 2]
)",
                  "1, 5, 2"),
            (Texts{"p1+5000/8 s1+5000/12, rows 3:1 x 2, columns 1:1 x 5, to 0/4 transposed"}));
}

TEST(LowerLoad, EverySecondRowOfAPackedTensor) {
  // gpt-oss: [E = 2, 2I = 6, H = 64] as blocks of 32; up is every second row.
  const std::string ops = R"(
  %b = checkpoint {tensor = "p0", dtype = u8, shape = [2, 6, 2, 16]} : u8[2, 6, 2, 16]
  %p = reshape %b {shape = [2, 6, 32]} : u8[2, 6, 32]
  %s = checkpoint {tensor = "s0", dtype = u8, shape = [2, 6, 2]} : u8[2, 6, 2]
  %d = dequantize %p, %s {group_columns = 32} : bf16[2, 6, 64]
  %r = reshape %d {shape = [2, 3, 2, 64]} : bf16[2, 3, 2, 64]
  %h = slice %r {axis = 2, begin = 1, end = 2} : bf16[2, 3, 1, 64]
  %w = reshape %h {shape = [2, 3, 64]} : bf16[2, 3, 64]
)";
  EXPECT_EQ(reads(ops, "2, 3, 64"),
            (Texts{"p0+0/32 s0+0/2, rows 1:2 x 3, columns 0:1 x 64, to 0/128",
                   "p0+192/32 s0+12/2, rows 1:2 x 3, columns 0:1 x 64, to 384/128"}));
}

TEST(LowerLoad, SlicesOfPayloadAndScales) {
  // What placement makes of a slice on whole groups.
  const std::string ops = R"(
  %b = checkpoint {tensor = "p0", dtype = f8e4m3, shape = [8, 9]} : f8e4m3[8, 9]
  %s = checkpoint {tensor = "s0", dtype = bf16, shape = [2, 3]} : bf16[2, 3]
  %bs = slice %b {axis = 1, begin = 6, end = 9} : f8e4m3[8, 3]
  %ss = slice %s {axis = 1, begin = 2, end = 3} : bf16[2, 1]
  %w = dequantize %bs, %ss {group_rows = 4, group_columns = 3} : bf16[8, 3]
)";
  EXPECT_EQ(reads(ops, "8, 3"), (Texts{"p0+6/9 s0+4/6, rows 0:1 x 8, columns 0:1 x 3, to 0/6"}));
}

TEST(LowerLoad, APayloadInPartsIsRefused) {
  const std::string ops = R"(
  %b = checkpoint {tensor = "p0", dtype = f8e4m3, shape = [4, 4]} : f8e4m3[4, 4]
  %t = transpose %b : f8e4m3[4, 4]
  %s = checkpoint {tensor = "s0", dtype = f32, shape = [1, 1]} : f32[1, 1]
  %w = dequantize %t, %s {group_rows = 4, group_columns = 4} : bf16[4, 4]
)";
  EXPECT_THROW(reads(ops, "4, 4"), UserError);
}

}  // namespace
}  // namespace shunt::codegen
