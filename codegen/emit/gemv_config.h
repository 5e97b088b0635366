// What the rows that stream weights share (kernels/gemv.cuh): how a product is cut into tiles, what
// a launch is told of it, and its time. Internal to codegen/emit.
#pragma once

#include "codegen/emit/linear_shared.h"

namespace shunt::codegen {

inline constexpr int64_t kGemvWarps = 8;
inline constexpr int64_t kGemvBlocksPerSm =
    2;                                   // what the registers allow: see __launch_bounds__ below
inline constexpr int64_t kGemvRows = 8;  // more would not fit the registers
// Of a lane: 16-byte reads in flight, and sums that fit beside them.
inline constexpr int64_t kGemvReads = 8, kGemvSums = 16;

struct GemvConfig {
  int64_t rows = 1;     // of a block
  int64_t buffers = 1;  // of so many rows in shared memory
  int64_t vec = 1;      // elements of w a lane reads at once
  int64_t unroll = 1;   // such reads of one column in flight
  int64_t columns = 1;  // of the result, a warp
  int64_t split = 1;    // warps that share columns, each with its part of K
  int64_t padded_depth = 0;
  int64_t tiles = 0;  // of the columns
  int64_t smem = 0;
};

/// Elements of K that all reads of a column cover, padding included.
int64_t padded_depth(int64_t depth, const GemvConfig& c);
/// The longest unroll up to `most` among those that read the least padding.
int64_t best_unroll(int64_t depth, GemvConfig c, int64_t most);
/// Dynamic shared memory, as kernels/gemv.cuh counts it.
int64_t gemv_smem(const Product& p, const GemvConfig& c);

/// The tiling for `rows` rows of x. `matrices`: how many products of this shape run side by side.
GemvConfig choose_gemv(const Product& p, int64_t rows, int64_t matrices, const Target& target);

/// Blocks with so much shared memory that the machine holds at once.
int64_t resident_blocks(int64_t smem, const Target& target);
/// Blocks that share the column tiles of one matrix: what fits the machine at once, in whole waves.
int64_t column_blocks(const GemvConfig& c, int64_t matrices, const Target& target);

/// The members of kernels/gemv.cuh's Config.
void add_gemv_config(LaunchBuilder& launch, const Product& p, const GemvConfig& c);

/// The larger of reading `bytes` and issuing the multiply-adds, conversions included, of
/// `weight_elements` with so many rows each. `busy`: the share of the machine that has work.
double gemv_seconds(const Context& context, double bytes, double weight_elements, double rows,
                    double busy);

}  // namespace shunt::codegen
