// y = epilogue(x . w^T) on tensor cores (mma.sync, sm_80 and up) for any M, N, K; dense or grouped
// by expert.
//
// A block computes tiles of kBlockM rows by kBlockN rows of w. Both operands stream through a ring
// of kStages shared memory buffers filled by cp.async, kBlockK = 64 elements (128 bytes) of K at a
// time. A buffer row is eight 16-byte cells; cell c of row r lies at c ^ (r % 8), so that the eight
// rows ldmatrix reads at once fall in different banks. With glu, groups of 8 rows of gate and of up
// alternate in the tile: a thread then holds both parts of its columns.
//
// Config: T (x and w), Out; kDepth = K, kOutColumns = N', kGlu; kBlockM, kBlockN (multiples of 16),
// kWarpsM, kWarpsN, kStages, kSmemBytes; kAligned: K is a multiple of 8 (else elements are copied
// one at a time); kGrouped, kGather, kScatter, kHeads (0: linear); epilogue(const float* value, int row, int column,
// extra...).
#pragma once

#include "gemm_rows.cuh"
#include "mma/mma.cuh"

namespace shunt {

template <class Config>
struct Gemm {
  using T = typename Config::T;
  using Out = typename Config::Out;
  using Weights = WeightTile<Config, 8>;
  static constexpr int kDepth = Config::kDepth;
  static constexpr int kOutColumns = Config::kOutColumns;
  static constexpr int kParts = Config::kGlu ? 2 : 1;
  static constexpr int kBlockM = Config::kBlockM;
  static constexpr int kBlockN = Config::kBlockN;
  static constexpr int kBlockK = 64;
  static constexpr int kStages = Config::kStages;
  static constexpr int kThreads = Config::kWarpsM * Config::kWarpsN * 32;
  static constexpr int kWarpM = kBlockM / Config::kWarpsM;  // a warp's part of the tile
  static constexpr int kWarpN = kBlockN / Config::kWarpsN;
  static constexpr int kTilesM = kWarpM / 16;  // 16x8 products of a warp
  static constexpr int kTilesN = kWarpN / 8;
  static constexpr int kSteps = ceil_div(kDepth, kBlockK);
  static constexpr int kTileColumns = kBlockN / kParts;  // of the result
  static constexpr int kXBytes = kBlockM * kBlockK * 2;
  static constexpr int kStageBytes = kXBytes + kBlockN * kBlockK * 2;
  static constexpr int kRowStep = kThreads / 8;  // tile rows from one cell of a thread to its next
  // With glu: the thread's next row of w is in the same part, hence at a fixed distance.
  static constexpr bool kRegular = !Config::kGlu || kRowStep % 16 == 0;
  // Rows of x that are not one after another.
  static constexpr bool kLookUp = Config::kGather > 0 || Config::kHeads > 0;
  // 16-byte copies of a thread, a step.
  static constexpr int kXCells = ceil_div(kBlockM * 8, kThreads);
  static constexpr int kWCells = ceil_div(kBlockN * 8, kThreads);
  static_assert(kBlockM % (16 * Config::kWarpsM) == 0 && kBlockN % (16 * Config::kWarpsN) == 0);
  static_assert(kStages >= 2 && Config::kSmemBytes == kStages * kStageBytes);
  static_assert(kThreads % 64 == 0,
                "the rows a thread copies are equal modulo 8, as is their swizzle");

  const T* x;
  const T* w;  // of the expert
  RowRange<Config> range;
  int first_row, first_column;
  const T* w_start;     // where this thread's first row of w begins
  const T* x_start;     // unless kLookUp: the same of x
  int x_rows[kXCells];  // with kLookUp: the rows of x that this thread copies; -1 for zeros

  /// Byte offset of a cell inside a buffer of rows.
  __device__ __forceinline__ static uint32 cell_offset(int row, int cell) {
    return row * 128 + ((cell ^ (row & 7)) << 4);
  }

  /// Tile row of this thread's i-th cell; all its cells are the same cell of their rows.
  __device__ __forceinline__ static int tile_row(int i) {
    return static_cast<int>(threadIdx.x) / 8 + i * kRowStep;
  }
  __device__ __forceinline__ static int first_k() { return static_cast<int>(threadIdx.x) % 8 * 8; }

  /// Prepares copy_w for the tile's columns.
  __device__ __forceinline__ void find_w_rows() {
    w_start = w + static_cast<int64>(Weights::row(first_column, tile_row(0))) * kDepth + first_k();
  }
  /// Prepares copy_x for the tile's rows.
  __device__ __forceinline__ void find_x_rows() {
    if constexpr (kLookUp) {
#pragma unroll
      for (int i = 0; i < kXCells; ++i) {
        const int row = first_row + tile_row(i);
        x_rows[i] = tile_row(i) < kBlockM && row < range.end ? range.source(row) : -1;
      }
    } else {
      x_start = x + static_cast<int64>(first_row + tile_row(0)) * kDepth + first_k();
    }
  }
  __device__ __forceinline__ void copy_x(int step) const {
    const uint32 buffer = buffer_of(step) + cell_offset(tile_row(0), threadIdx.x % 8);
#pragma unroll
    for (int i = 0; i < kXCells; ++i) {
      if (kXCells * kThreads > kBlockM * 8 && tile_row(i) >= kBlockM) break;
      const uint32 to = buffer + i * kRowStep * 128;
      if constexpr (kLookUp) {
        const T* from = x + static_cast<int64>(x_rows[i]) * kDepth + first_k();
        copy_cell(to, from + step * kBlockK, x_rows[i] >= 0, step);
      } else {
        const bool valid = first_row + tile_row(i) < range.end;
        copy_cell(to, x_start + i * kRowStep * static_cast<int64>(kDepth) + step * kBlockK, valid,
                  step);
      }
    }
  }
  __device__ __forceinline__ void copy_w(int step) const {
    const uint32 buffer = buffer_of(step) + kXBytes + cell_offset(tile_row(0), threadIdx.x % 8);
#pragma unroll
    for (int i = 0; i < kWCells; ++i) {
      if (kWCells * kThreads > kBlockN * 8 && tile_row(i) >= kBlockN) break;
      const uint32 to = buffer + i * kRowStep * 128;
      const bool valid = kOutColumns % kTileColumns == 0 ||  // no tile hangs over the edge
                         Weights::column(first_column, tile_row(i)) < kOutColumns;
      if constexpr (kRegular) {
        constexpr int64 kStep = static_cast<int64>(kRowStep / kParts) * kDepth;
        copy_cell(to, w_start + i * kStep + step * kBlockK, valid, step);
      } else {
        const int row = Weights::row(first_column, tile_row(i));
        const T* from = w + static_cast<int64>(row) * kDepth + first_k();
        copy_cell(to, from + step * kBlockK, valid, step);
      }
    }
  }
  /// Eight elements from `from`, or zeros if !valid; past the end of K zeros too.
  __device__ __forceinline__ void copy_cell(uint32 to, const T* from, bool valid, int step) const {
    const int k = step * kBlockK + first_k();
    if constexpr (Config::kAligned) {
      valid = valid && (kDepth % kBlockK == 0 || k < kDepth);
      copy16_async(to, valid ? from : w, valid);
    } else {
      copy_elements(to, from, valid ? kDepth - k : 0);
    }
  }
  /// The slow way for a K that is no multiple of 8: rows then begin at any even address.
  __device__ __forceinline__ static void copy_elements(uint32 to, const T* from, int count) {
    uint32 words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32 low = 2 * i < count ? from[2 * i].bits : 0;
      const uint32 high = 2 * i + 1 < count ? from[2 * i + 1].bits : 0;
      words[i] = low | high << 16;
    }
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
  }
  __device__ __forceinline__ uint32 buffer_of(int step) const {
    return smem_address(dynamic_smem<uint8>()) + step % kStages * kStageBytes;
  }
  /// One step of K for this warp.
  __device__ __forceinline__ void multiply(int step, float (&sums)[kTilesM][kTilesN][4]) const {
    const int lane = lane_index();
    const int warp_m = warp_index() / Config::kWarpsN * kWarpM;
    const int warp_n = warp_index() % Config::kWarpsN * kWarpN;
    // Addresses for the first 16 of K; for the next ones, cell c becomes c ^ 2, c ^ 4, c ^ 6, which
    // is bits 5 and 6 of the address. 16 rows further down the swizzle is the same.
    // x: matrices are rows 0-7 and 8-15 of the left half, then of the right half.
    const uint32 x_start = buffer_of(step) + cell_offset(warp_m + lane % 16, lane / 16);
    // w: left and right half of rows 0-7, then of rows 8-15.
    const uint32 w_start =
        buffer_of(step) + kXBytes + cell_offset(warp_n + lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int k16 = 0; k16 < kBlockK / 16; ++k16) {
      uint32 a[kTilesM][4];
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        load_matrices(a[m], (x_start ^ (k16 * 32)) + m * 16 * 128);
      }
#pragma unroll
      for (int n = 0; n < kTilesN; n += 2) {
        uint32 b[4];
        load_matrices(b, (w_start ^ (k16 * 32)) + n * 8 * 128);
#pragma unroll
        for (int m = 0; m < kTilesM; ++m) {
          mma_16x8x16<T>(sums[m][n], a[m], b[0], b[1]);
          mma_16x8x16<T>(sums[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  template <class... Extra>
  __device__ __forceinline__ void write(const float (&sums)[kTilesM][kTilesN][4], Out* out,
                                        Extra... extra) const {
    const int lane = lane_index();
    const int warp_m = warp_index() / Config::kWarpsN * kWarpM;
    const int warp_n = warp_index() % Config::kWarpsN * kWarpN;
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + warp_m + m * 16 + half * 8 + lane / 4;
        if (row >= range.end) continue;
        Out* out_row = out + range.target(row) * kOutColumns;
#pragma unroll
        for (int n = 0; n < kTilesN; n += kParts) {
          const int column = first_column + (warp_n + n * 8) / kParts + lane % 4 * 2;
          float y[2];
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            if (column + j >= kOutColumns) continue;
            float value[kParts];
#pragma unroll
            for (int p = 0; p < kParts; ++p) value[p] = sums[m][n + p][half * 2 + j];
            y[j] = Config::epilogue(value, range.epilogue_row(row), column + j, extra...);
          }
          write_pair(out_row, column, y);
        }
      }
    }
  }
  __device__ __forceinline__ static void write_pair(Out* out_row, int column, const float (&y)[2]) {
    if constexpr (kOutColumns % 2 == 0) {  // column is even, so both are in and aligned
      if (column < kOutColumns) {
        Vec<Out, 2> pair;
        pair[0] = from_float<Out>(y[0]);
        pair[1] = from_float<Out>(y[1]);
        store(out_row + column, pair);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (column + j < kOutColumns) out_row[column + j] = from_float<Out>(y[j]);
      }
    }
  }

  /// The tile at (first_row, first_column). With kWeightsReady the copies of w for the first stages
  /// are already under way (start_weights).
  template <bool kWeightsReady, class... Extra>
  __device__ __forceinline__ void tile(Out* out, Extra... extra) {
    float sums[kTilesM][kTilesN][4] = {};
    find_x_rows();
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < kSteps) {
        copy_x(step);
        if (!kWeightsReady) copy_w(step);
      }
      commit_copies();
    }
    for (int step = 0; step < kSteps; ++step) {
      wait_copies<kStages - 2>();  // this thread's copies for `step` are done ...
      __syncthreads();             // ... and everyone's; and all have left the buffer refilled next
      const int ahead = step + kStages - 1;
      if (ahead < kSteps) {
        copy_x(ahead);
        copy_w(ahead);
      }
      commit_copies();
      multiply(step, sums);
    }
    write(sums, out, extra...);
  }

  __device__ __forceinline__ void start_weights() const {
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < kSteps) copy_w(step);
    }
  }
};

/// linear: x[count, K], w[N, K] -> out[count, N']; head_linear: x[count, kHeads, K], w[kHeads, N, K]
/// -> out[count, kHeads, N]. Grid: (tiles of columns, tiles of rows, heads or 1).
template <class Config, class... Extra>
__device__ __forceinline__ void gemm(const typename Config::T* x, const typename Config::T* w,
                                     typename Config::Out* out, int count, Extra... extra) {
  using Product = Gemm<Config>;
  Product product;
  product.x = x;
  product.w = weights_of_block<Config>(w);
  product.range = all_rows<Config>(count);
  product.first_column = blockIdx.x * Product::kTileColumns;
  product.first_row = blockIdx.y * Config::kBlockM;
  product.find_w_rows();
  // No earlier kernel of a step writes weights. Worth it where reading them is most of the time.
  constexpr bool kEarly = Config::kBlockM <= 32;
  if (kEarly) product.start_weights();
  wait_for_predecessor();
  launch_dependents();
  product.template tile<kEarly>(out, extra...);
}

/// grouped_linear: for expert e = blockIdx.y, rows [offsets[e], offsets[e + 1]) of the sorted
/// routes times w[e]. Block z takes every gridDim.z-th tile of the expert's rows. Grid: (tiles of
/// columns, E, any).
template <class Config, class... Extra>
__device__ __forceinline__ void grouped_gemm(const typename Config::T* x,
                                             const typename Config::T* w, const int* offsets,
                                             const int* rows, typename Config::Out* out,
                                             Extra... extra) {
  using Product = Gemm<Config>;
  constexpr int64 kExpertSize =
      static_cast<int64>(Product::kParts) * Config::kOutColumns * Config::kDepth;
  Product product;
  wait_for_predecessor();
  launch_dependents();
  product.x = x;
  product.w = w + blockIdx.y * kExpertSize;
  product.range = rows_of_expert<Config>(offsets, rows);
  product.first_column = blockIdx.x * Product::kTileColumns;
  product.first_row = product.range.begin + blockIdx.z * Config::kBlockM;
  if (product.first_row >= product.range.end) return;
  product.find_w_rows();
  for (; product.first_row < product.range.end; product.first_row += gridDim.z * Config::kBlockM) {
    product.template tile<false>(out, extra...);
    __syncthreads();  // the next tile refills the buffers from the start
  }
}

}  // namespace shunt
