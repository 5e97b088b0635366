// What gemm.cuh and gemm_simt.cuh share: which rows of x a block multiplies with which matrix,
// where results go, and how weight rows are laid out in a tile.
#pragma once

#include "common/common.cuh"

namespace shunt {

/// Rows [begin, end) of a product, all with the same weights. Grouped: those of expert blockIdx.y.
/// With kHeads (head_linear) row r is token r, of whose heads this block has blockIdx.z.
template <class Config>
struct RowRange {
  const int* rows;  // grouped: the route of every sorted row; else unused
  int begin, end;

  /// Row of x behind product row r.
  __device__ __forceinline__ int source(int r) const {
    if constexpr (Config::kGrouped && Config::kGather > 0) return rows[r] / Config::kGather;
    if constexpr (Config::kHeads > 0) return r * Config::kHeads + static_cast<int>(blockIdx.z);
    return r;
  }
  /// Row of the result.
  __device__ __forceinline__ int64 target(int r) const {
    if constexpr (Config::kGrouped && Config::kScatter) return rows[r];
    if constexpr (Config::kHeads > 0) return static_cast<int64>(r) * Config::kHeads + blockIdx.z;
    return r;
  }
  /// What the epilogue takes for a row: the row itself, or the expert.
  __device__ __forceinline__ static int epilogue_row(int r) {
    return Config::kGrouped ? static_cast<int>(blockIdx.y) : r;
  }
};

/// The matrix that a block of linear or head_linear multiplies with.
template <class Config, class W>
__device__ __forceinline__ const W* weights_of_block(const W* w) {
  if constexpr (Config::kHeads > 0) {
    return w + blockIdx.z * (static_cast<int64>(Config::kOutColumns) * Config::kDepth);
  }
  return w;
}

/// linear, head_linear: all rows.
template <class Config>
__device__ __forceinline__ RowRange<Config> all_rows(int count) {
  return {nullptr, 0, count};
}

/// grouped_linear: the rows of expert blockIdx.y; offsets[E + 1] are device data.
template <class Config>
__device__ __forceinline__ RowRange<Config> rows_of_expert(const int* offsets, const int* rows) {
  return {rows, offsets[blockIdx.y], offsets[blockIdx.y + 1]};
}

/// A tile of w that computes result columns from `first_column` on. With glu it alternates kGroup
/// rows of `gate` and the kGroup rows of `up` for the same result columns.
template <class Config, int kGroup>
struct WeightTile {
  /// Result column that tile row `i` belongs to; may lie past the end.
  __device__ __forceinline__ static int column(int first_column, int i) {
    return first_column + (Config::kGlu ? i / (2 * kGroup) * kGroup + i % kGroup : i);
  }
  /// Row of w behind tile row `i`, if its column exists.
  __device__ __forceinline__ static int row(int first_column, int i) {
    const int part = Config::kGlu ? i / kGroup % 2 : 0;
    return part * Config::kOutColumns + column(first_column, i);
  }
};

}  // namespace shunt
