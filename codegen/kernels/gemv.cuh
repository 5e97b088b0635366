// y = epilogue(x . w^T) for few rows of x: the weights are read once, at memory speed.
//
// A block holds its rows of x in shared memory and walks over tiles of output columns. In a
// tile each warp owns Config::kColumns columns; with Config::kSplit > 1, so many warps share the
// same columns and take every kSplit-th piece of K each. A lane reads kVec elements of w (16 bytes
// where K allows) at a time; the kUnroll reads of the next piece are issued before the current one
// is used, across tiles too, so that the memory never idles.
//
// Config: X, W, Out; kRows, the rows of x that share a read of w; kXBuffers, so many sets of rows
// have room in shared memory; kDepth = K; kOutColumns = N', the columns of the result; kGlu: rows n
// and n + N' of w make one column; kVec, kUnroll, kColumns, kSplit, kWarps, kSmemBytes;
// epilogue(const float* value, int row, int column, extra...), value[0] being acc or gate, value[1]
// up.
#pragma once

#include "common/common.cuh"

namespace shunt {

/// Rows one after another, of x and of the result: what Gemv's members call `rows`.
template <class Config>
struct RowsInOrder {
  const typename Config::X* x;
  typename Config::Out* out;
  int count;          // at most kRows
  int first_row = 0;  // of the epilogue

  __device__ __forceinline__ const typename Config::X* source(int r) const {
    return x + static_cast<int64>(r) * Config::kDepth;
  }
  __device__ __forceinline__ typename Config::Out* target(int r) const {
    return out + static_cast<int64>(r) * Config::kOutColumns;
  }
  __device__ __forceinline__ int epilogue_row(int r) const { return first_row + r; }
};

/// The streaming product of one block: `rows` of x (at most kRows) with tiles of columns of w.
template <class Config>
struct Gemv {
  using X = typename Config::X;
  using W = typename Config::W;
  using Out = typename Config::Out;
  static constexpr int kRows = Config::kRows;
  static constexpr int kDepth = Config::kDepth;
  static constexpr int kOutColumns = Config::kOutColumns;
  static constexpr int kParts = Config::kGlu ? 2 : 1;
  static constexpr int kVec = Config::kVec;
  static constexpr int kUnroll = Config::kUnroll;
  static constexpr int kColumns = Config::kColumns;
  static constexpr int kSplit = Config::kSplit;
  static constexpr int kWarps = Config::kWarps;

  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTileColumns = kWarps / kSplit * kColumns;
  static constexpr int kTiles = ceil_div(kOutColumns, kTileColumns);
  static constexpr int kChunk = 32 * kVec;  // elements of K that a warp reads of one column at once
  static constexpr int kPiece = kChunk * kUnroll;  // elements of K between two rounds of reads
  static constexpr int kPieces = ceil_div(kDepth, kPiece* kSplit);  // of a warp, a column
  static constexpr int kPaddedDepth = kPieces * kPiece * kSplit;
  static constexpr bool kWhole = kPaddedDepth == kDepth && kOutColumns % kTileColumns == 0;
  static constexpr int kSums = kColumns * kParts * kRows;  // of a warp, a tile; in this order
  // Elements of x moved at once to shared memory; divides kVec, hence kDepth.
  static constexpr int kMaxXVec = 16 / static_cast<int>(sizeof(X));
  static constexpr int kXVec = kVec < kMaxXVec ? kVec : kMaxXVec;

  // Dynamic shared memory: x as [kXBuffers][kRows][kPaddedDepth], then the warps' sums, twice:
  // tiles take turns, so that one barrier a tile is enough.
  static constexpr int kXBytes = round_up(kRows * kPaddedDepth * static_cast<int>(sizeof(X)), 16);
  static constexpr int kSmemBytes = Config::kXBuffers * kXBytes + 2 * kWarps * kSums * 4;

  static_assert(kWarps % kSplit == 0 && kDepth % kVec == 0 && kSums <= 64);
  static_assert(kSmemBytes == Config::kSmemBytes,
                "the emitter counts shared memory as this header does");

  struct Piece {
    Vec<W, kVec> at[kUnroll][kColumns][kParts];
  };

  const W* w;  // [kParts * kOutColumns, kDepth]
  int team, split, lane;

  __device__ __forceinline__ explicit Gemv(const W* weights)
      : w(weights), team(warp_index() / kSplit), split(warp_index() % kSplit), lane(lane_index()) {}

  __device__ __forceinline__ static X* x_buffer(int i) {
    return reinterpret_cast<X*>(dynamic_smem<uint8>() + i * kXBytes);
  }

  __device__ __forceinline__ int first_column(int tile) const {
    return tile * kTileColumns + team * kColumns;
  }
  /// Where in K this lane's part of read `u` of a piece begins.
  __device__ __forceinline__ int depth_of(int piece, int u) const {
    return ((piece * kSplit + split) * kUnroll + u) * kChunk + lane * kVec;
  }

  __device__ __forceinline__ void read(Piece& out, int tile, int piece) const {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int k = depth_of(piece, u);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int column = first_column(tile) + c;
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
          const int64 row = column + p * kOutColumns;
          if (kWhole || (k < kDepth && column < kOutColumns)) {
            out.at[u][c][p] = load_stream<kVec>(w + row * kDepth + k);
          } else {
            out.at[u][c][p] = zero_vec<W, kVec>();
          }
        }
      }
    }
  }

  /// Rows from `count` on are left out (the same for all lanes).
  __device__ __forceinline__ void multiply(const Piece& in, int piece, const X* x_smem, int count,
                                           float (&sums)[kSums]) const {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const X* x_lane = x_smem + depth_of(piece, u);
      Vec<float, kVec> weight[kColumns * kParts];
#pragma unroll
      for (int j = 0; j < kColumns * kParts; ++j) {
        weight[j] = to_float(in.at[u][j / kParts][j % kParts]);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r > 0 && r >= count) continue;
        const Vec<float, kVec> x = to_float(load<kVec>(x_lane + r * kPaddedDepth));
#pragma unroll
        for (int j = 0; j < kColumns * kParts; ++j) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) {
            sums[j * kRows + r] = fmaf(x[i], weight[j][i], sums[j * kRows + r]);
          }
        }
      }
    }
  }

  /// Copies rows of x to shared memory; missing rows and the padding of K become zero.
  template <class Rows>
  __device__ __forceinline__ static void stage_rows(const Rows& rows, X* x_smem) {
    constexpr int kMoves = kPaddedDepth / kXVec;
    for (int i = threadIdx.x; i < kRows * kMoves; i += kThreads) {
      const int r = i / kMoves;
      const int k = i % kMoves * kXVec;
      Vec<X, kXVec> value = zero_vec<X, kXVec>();
      if (r < rows.count && k < kDepth) value = load<kXVec>(rows.source(r) + k);
      store(x_smem + r * kPaddedDepth + k, value);
    }
  }

  /// Adds every lane's sums; the totals go to `totals` in shared memory.
  __device__ __forceinline__ void reduce(const float (&sums)[kSums], float* totals) const {
    constexpr int kGroup = kSums > 16 ? 32 : kSums > 8 ? 16 : kSums > 4 ? 8 : kSums > 2 ? 4 : kSums;
#pragma unroll
    for (int first = 0; first < kSums; first += kGroup) {
      float values[kGroup];
#pragma unroll
      for (int i = 0; i < kGroup; ++i)
        values[i] = first + i < kSums ? sums[(first + i) % kSums] : 0.0f;
      const float total = warp_sum_each<kGroup>(values);
      constexpr int kOwners = 32 / kGroup;  // lanes that hold the same total
      const int i = first + lane / kOwners;
      if (lane % kOwners == 0 && i < kSums) totals[i] = total;
    }
  }

  /// Applies the epilogue to a tile's totals, partial_totals[kSplit][kSums] of this team, and
  /// writes the results.
  template <class Rows, class... Extra>
  __device__ __forceinline__ void write(const float* partial_totals, int tile, const Rows& rows,
                                        Extra... extra) const {
    for (int i = lane; i < kColumns * kRows; i += 32) {
      const int c = i / kRows;
      const int r = i % kRows;
      const int column = first_column(tile) + c;
      if (r >= rows.count || column >= kOutColumns) continue;
      float value[kParts];
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        value[p] = 0;
#pragma unroll
        for (int s = 0; s < kSplit; ++s) {
          value[p] += partial_totals[s * kSums + (c * kParts + p) * kRows + r];
        }
      }
      rows.target(r)[column] =
          from_float<Out>(Config::epilogue(value, rows.epilogue_row(r), column, extra...));
    }
  }

  /// One tile with the rows at x_smem, of which the first `count` are used (kRows if that is not
  /// worth a branch). `next` holds the tile's piece 0; `read_on()` is called when that of the tile
  /// after it can be read into `next`. `turn` alternates between 0 and 1.
  template <class Rows, class ReadOn, class... Extra>
  __device__ __forceinline__ void multiply_tile(Piece& next, int tile, int turn, const X* x_smem,
                                                const Rows& rows, int count, ReadOn&& read_on,
                                                Extra... extra) const {
    float* totals = reinterpret_cast<float*>(x_buffer(Config::kXBuffers)) +
                    (turn * kWarps + team * kSplit) * kSums;  // [kSplit][kSums]
    float sums[kSums] = {};
    for (int piece = 0; piece < kPieces; ++piece) {
      const Piece current = next;
      if (piece + 1 < kPieces) {
        read(next, tile, piece + 1);
      } else {
        read_on();
      }
      multiply(current, piece, x_smem, count, sums);
    }
    reduce(sums, totals + split * kSums);
    if constexpr (kSplit > 1) {
      __syncthreads();
    } else {
      __syncwarp();
    }
    if (split == 0) write(totals, tile, rows, extra...);
  }

  /// Tiles first_tile, first_tile + stride, ... `next` holds piece 0 of the first.
  template <class Rows, class... Extra>
  __device__ __forceinline__ void run(Piece& next, int first_tile, int stride, const Rows& rows,
                                      Extra... extra) const {
    stage_rows(rows, x_buffer(0));
    __syncthreads();
    int turn = 0;
    for (int tile = first_tile; tile < kTiles; tile += stride, turn ^= 1) {
      const auto read_on = [&] {
        if (tile + stride < kTiles) read(next, tile + stride, 0);
      };
      multiply_tile(next, tile, turn, x_buffer(0), rows, kRows, read_on, extra...);
    }
  }
};

/// linear: x[rows, K], w[N, K] -> out[rows, N']. Grid: (at most kTiles, ceil(rows / kRows)).
template <class Config, class... Extra>
__device__ __forceinline__ void gemv(const typename Config::X* x, const typename Config::W* w,
                                     typename Config::Out* out, int rows, Extra... extra) {
  Gemv<Config> product(w);
  typename Gemv<Config>::Piece first;
  product.read(first, blockIdx.x, 0);  // no earlier kernel of a step writes weights
  wait_for_predecessor();
  launch_dependents();
  const int row = blockIdx.y * Config::kRows;
  const RowsInOrder<Config> mine{x + static_cast<int64>(row) * Config::kDepth,
                                 out + static_cast<int64>(row) * Config::kOutColumns,
                                 min(rows - row, Config::kRows), row};
  product.run(first, blockIdx.x, gridDim.x, mine, extra...);
}

/// routed_linear: route r = blockIdx.x computes out[r] = x[r / kRoutesPerRow] . w[ids[r]]^T; a
/// route whose id is -1 keeps its row of `out` as it was. The epilogue's row is the expert. With
/// kEarlyIds the ids are older than the predecessor. Grid: (routes, at most kTiles).
template <class Config, class... Extra>
__device__ __forceinline__ void routed_gemv(const typename Config::X* x,
                                            const typename Config::W* w, const int* ids,
                                            typename Config::Out* out, Extra... extra) {
  using Product = Gemv<Config>;
  static_assert(Config::kRows == 1);
  constexpr int64 kExpertSize =
      static_cast<int64>(Product::kParts) * Config::kOutColumns * Config::kDepth;
  const int64 route = blockIdx.x;
  if constexpr (!Config::kEarlyIds) wait_for_predecessor();
  const int expert = Config::kEarlyIds ? load_early(ids + route) : ids[route];
  Product product(w + expert * kExpertSize);
  typename Product::Piece first;
  if (expert >= 0) product.read(first, blockIdx.y, 0);
  if constexpr (Config::kEarlyIds) wait_for_predecessor();
  launch_dependents();
  if (expert < 0) return;
  const RowsInOrder<Config> mine{x + route / Config::kRoutesPerRow * Config::kDepth,
                                 out + route * Config::kOutColumns, 1, expert};
  product.run(first, blockIdx.y, gridDim.y, mine, extra...);
}

}  // namespace shunt
