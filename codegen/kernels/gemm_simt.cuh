// y = epilogue(x . w^T) in float32 arithmetic for any mix of element types and any M, N, K; dense
// or grouped. The row of last resort: simple tiles of 64 rows by 64 rows of w, 16 elements of K at
// a time, 4x4 results a thread.
//
// Config: X, W, Out; kDepth = K, kOutColumns = N', kGlu; kGrouped, kGather, kScatter, kHeads;
// epilogue(const float* value, int row, int column, extra...).
#pragma once

#include "gemm_rows.cuh"

namespace shunt {

template <class Config>
struct SimtGemm {
  using X = typename Config::X;
  using W = typename Config::W;
  using Out = typename Config::Out;
  static constexpr int kDepth = Config::kDepth;
  static constexpr int kOutColumns = Config::kOutColumns;
  static constexpr int kParts = Config::kGlu ? 2 : 1;
  static constexpr int kBlock = 64;
  static constexpr int kBlockK = 16;
  static constexpr int kThreads = 256;
  static constexpr int kTileColumns = kBlock / kParts;
  // Four floats of padding keep rows of 64 aligned for 16-byte reads and spread the transposing
  // writes over the banks.
  static constexpr int kPitch = kBlock + 4;

  struct Tile {
    float x[kBlockK][kPitch];
    float w[kBlockK][kPitch];
  };

  /// Thread (ty, tx) computes rows ty * 4 + i and tile columns tx + 16 j: with glu, j and j + 2 are
  /// gate and up of the same result column (groups of 32 rows of w alternate).
  template <class... Extra>
  __device__ __forceinline__ static void tile(Tile& smem, const X* x, const W* w,
                                              const RowRange<Config>& range, int first_row,
                                              int first_column, Out* out, Extra... extra) {
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    // Thread i copies 4 elements of K for tile row i / 4.
    const int copy_row = threadIdx.x / 4, copy_k = threadIdx.x % 4 * 4;
    using Weights = WeightTile<Config, kBlock / 2>;
    const bool in_w = Weights::column(first_column, copy_row) < kOutColumns;
    const W* w_from =
        in_w ? w + static_cast<int64>(Weights::row(first_column, copy_row)) * kDepth : nullptr;
    const X* x_from = first_row + copy_row < range.end
                          ? x + static_cast<int64>(range.source(first_row + copy_row)) * kDepth
                          : nullptr;
    float sums[4][4] = {};
    for (int k0 = 0; k0 < kDepth; k0 += kBlockK) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = k0 + copy_k + i;
        smem.x[copy_k + i][copy_row] = x_from != nullptr && k < kDepth ? to_float(x_from[k]) : 0.0f;
        smem.w[copy_k + i][copy_row] = w_from != nullptr && k < kDepth ? to_float(w_from[k]) : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kBlockK; ++k) {
        const Vec<float, 4> a = load<4>(&smem.x[k][ty * 4]);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float b = smem.w[k][tx + 16 * j];
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[i][j] = fmaf(a[i], b, sums[i][j]);
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + ty * 4 + i;
      if (row >= range.end) continue;
      Out* out_row = out + range.target(row) * kOutColumns;
#pragma unroll
      for (int j = 0; j < 4 / kParts; ++j) {
        const int column = first_column + tx + 16 * j;
        if (column >= kOutColumns) continue;
        float value[kParts];
#pragma unroll
        for (int p = 0; p < kParts; ++p) value[p] = sums[i][j + 2 * p];
        out_row[column] =
            from_float<Out>(Config::epilogue(value, range.epilogue_row(row), column, extra...));
      }
    }
  }
};

/// linear and head_linear, as gemm in gemm.cuh.
template <class Config, class... Extra>
__device__ __forceinline__ void simt_gemm(const typename Config::X* x, const typename Config::W* w,
                                          typename Config::Out* out, int count, Extra... extra) {
  using Product = SimtGemm<Config>;
  __shared__ __align__(16) typename Product::Tile smem;
  wait_for_predecessor();
  launch_dependents();
  Product::tile(smem, x, weights_of_block<Config>(w), all_rows<Config>(count), blockIdx.y * Product::kBlock,
                blockIdx.x * Product::kTileColumns, out, extra...);
}

/// grouped_linear: as grouped_gemm in gemm.cuh. Grid: (tiles of columns, E, any).
template <class Config, class... Extra>
__device__ __forceinline__ void grouped_simt_gemm(const typename Config::X* x,
                                                  const typename Config::W* w, const int* offsets,
                                                  const int* rows, typename Config::Out* out,
                                                  Extra... extra) {
  using Product = SimtGemm<Config>;
  constexpr int64 kExpertSize =
      static_cast<int64>(Product::kParts) * Config::kOutColumns * Config::kDepth;
  __shared__ __align__(16) typename Product::Tile smem;
  wait_for_predecessor();
  launch_dependents();
  const RowRange<Config> range = rows_of_expert<Config>(offsets, rows);
  for (int row = range.begin + blockIdx.z * Product::kBlock; row < range.end;
       row += gridDim.z * Product::kBlock) {
    Product::tile(smem, x, w + blockIdx.y * kExpertSize, range, row,
                  blockIdx.x * Product::kTileColumns, out, extra...);
  }
}

}  // namespace shunt
