// Tiles of kernels/gemm.cuh and gemm_simt.cuh: which there are, what they cost, and the launch both
// linear and grouped_linear emit. Internal to codegen/emit.
#pragma once

#include "codegen/emit/linear_shared.h"

namespace shunt::codegen {

/// A tile of kernels/gemm.cuh.
struct MmaTile {
  int64_t block_m, block_n, warps_m, warps_n;
  int64_t stages;        // at most, where a multiprocessor has several blocks at once
  double compute_share;  // of the tensor cores' rate, once all multiprocessors are busy

  int64_t threads() const { return warps_m * warps_n * 32; }
  int64_t stage_bytes() const { return (block_m + block_n) * 128; }
  /// Columns of the result a tile has.
  int64_t columns(const Product& p) const { return block_n / p.parts(); }
};

/// True if x and w are of one 16-bit type, and the rest of the family's needs hold.
bool supports_mma(const Product& p, const Context& context);
/// The tile with the least estimated time, and that time.
struct MmaChoice {
  MmaTile tile;
  int64_t stages;  // of its ring
  double seconds;

  int64_t smem() const { return stages * tile.stage_bytes(); }
};
MmaChoice choose_mma(const Product& p, const Context& context);
void emit_mma(const Product& p, StepBuilder& steps);

bool supports_simt(const Product& p, const Context& context);
double simt_seconds(const Product& p, const Context& context);
void emit_simt(const Product& p, StepBuilder& steps);

}  // namespace shunt::codegen
