// The tiling of a streamed product and its time. Entry point: choose_gemv. Covered by
// tests/codegen/linear_rows_test.cpp and linear_nvrtc_test.cpp.
#include "codegen/emit/gemv_config.h"

#include <algorithm>

namespace shunt::codegen {

int64_t padded_depth(int64_t depth, const GemvConfig& c) {
  return round_up(depth, 32 * c.vec * c.unroll * c.split);
}

int64_t best_unroll(int64_t depth, GemvConfig c, int64_t most) {
  int64_t best = 1, least = padded_depth(depth, c);
  for (c.unroll = 2; c.unroll <= most; ++c.unroll) {
    if (padded_depth(depth, c) > least) continue;
    least = padded_depth(depth, c);
    best = c.unroll;
  }
  return best;
}

int64_t gemv_smem(const Product& p, const GemvConfig& c) {
  return c.buffers * round_up(c.rows * c.padded_depth * dtype_bytes(p.x_type()), 16) +
         2 * kGemvWarps * c.columns * p.parts() * c.rows * 4;
}

GemvConfig choose_gemv(const Product& p, int64_t rows, int64_t matrices, const Target& target) {
  GemvConfig c;
  c.rows = std::min(rows, kGemvRows);
  c.vec = vector_width(p.depth, 16 / dtype_bytes(p.w_type()));
  // Sixteen-byte reads in flight a lane, and how many rows of w share a read of x. Both live in
  // registers, next to one sum for every row of x and of w.
  const int64_t reads = c.rows <= 4 ? kGemvReads : kGemvReads / 2;
  c.columns = c.rows <= 2 ? 1 : std::max<int64_t>(1, 2 / p.parts());
  const int64_t chunks = ceil_div(p.depth, 32 * c.vec);
  while (2 * c.columns * p.parts() * c.rows <= kGemvSums && chunks * c.columns * p.parts() < reads)
    c.columns *= 2;
  // Enough warps to fill the machine: share columns among warps if there are too few of them.
  const int64_t wanted = target.sm_count * kGemvBlocksPerSm * kGemvWarps;
  while (c.split < kGemvWarps && chunks >= 2 * c.split &&
         ceil_div(p.columns, c.columns) * matrices * c.split < wanted) {
    c.split *= 2;
  }
  c.unroll = best_unroll(p.depth, c, std::max<int64_t>(1, reads / (c.columns * p.parts())));
  c.padded_depth = padded_depth(p.depth, c);
  c.tiles = ceil_div(p.columns, kGemvWarps / c.split * c.columns);
  c.smem = gemv_smem(p, c);
  return c;
}

int64_t resident_blocks(int64_t smem, const Target& target) {
  return target.sm_count *
         std::min(kGemvBlocksPerSm, std::max<int64_t>(1, target.smem_per_block / smem));
}

int64_t column_blocks(const GemvConfig& c, int64_t matrices, const Target& target) {
  // With more matrices than room, a few blocks for each even out the last wave.
  const int64_t share = resident_blocks(c.smem, target) / matrices;
  return std::clamp<int64_t>(share > 0 ? share : 4, 1, c.tiles);
}

void add_gemv_config(LaunchBuilder& launch, const Product& p, const GemvConfig& c) {
  launch.type("X", p.x_type())
      .type("W", p.w_type())
      .type("Out", p.out_type())
      .number("kRows", c.rows)
      .number("kXBuffers", c.buffers)
      .number("kDepth", p.depth)
      .number("kOutColumns", p.columns)
      .boolean("kGlu", p.glu)
      .number("kVec", c.vec)
      .number("kUnroll", c.unroll)
      .number("kColumns", c.columns)
      .number("kSplit", c.split)
      .number("kWarps", kGemvWarps)
      .number("kSmemBytes", c.smem)
      .extra(epilogue_text(p));
}

double gemv_seconds(const Context& context, double bytes, double weight_elements, double rows,
                    double busy) {
  const double lane_operations = weight_elements * (1 + 1.5 * rows);
  const double move = bytes / (context.target.memory_bytes_per_s * 0.75 * busy);
  const double compute = lane_operations / (context.target.vector_flops_per_s / 2 * 0.75 * busy);
  return context.target.launch_seconds + kRampSeconds + std::max(move, compute);
}

}  // namespace shunt::codegen
