// attention and encoder_attention for any batch, bf16 or f16: flash attention with m16n8k16, on sm_80 and later.
//
// A block handles 64 rows of one (sequence, key head). Rows pack the query heads of a key head: row
// r is query token r / G and head r % G of the group of G, so that K and V are read once for all of
// them, and a sequence with one new token still fills G rows. Each of four warps has 16 rows; K and
// V come through shared memory, a tile of kKeys keys being copied while the one before is used.
//
// blockIdx.x counts tiles over all sequences; the launch has room for the worst case and a block
// finds its sequence by scanning seq_starts. blockIdx.y is the key head.
//
// Config: E (of q, k, v, out), Sink, kHeads, kKvHeads, kDim, kDimV (multiples of 16), kPageSize,
// kTableCols, kKeys, kThreads (128), and those of attention_common.cuh.
#pragma once

#include "attention_common.cuh"

namespace shunt {

namespace attention {

inline constexpr int kRows = 64;  // of a block

template <class C>
struct PrefillSmem {
  // Eight elements of padding make the eight rows of a matrix start in different banks.
  static constexpr int kStride = C::kDim + 8, kStrideV = C::kDimV + 8;
  typename C::E q[kRows * kStride];
  typename C::E k[2][C::kKeys * kStride];
  typename C::E v[2][C::kKeys * kStrideV];
};

/// Starts the copy of keys [key0, key0 + kKeys) into one stage; keys from key_end on repeat the
/// last one.
template <class C>
__device__ __forceinline__ void load_keys(PrefillSmem<C>& smem, int stage, const typename C::E* k,
                                          const typename C::E* v, const KeyRows<C>& key_row,
                                          int kv_head, int key0, int key_end) {
  using Smem = PrefillSmem<C>;
  constexpr int kPieces = C::kDim / 8, kPiecesV = C::kDimV / 8;
  const auto row = [&](int r) {
    return key_row(::min(key0 + r, key_end - 1)) * C::kKvHeads + kv_head;
  };
#pragma unroll 4
  for (int i = threadIdx.x; i < C::kKeys * kPieces; i += C::kThreads) {
    const int r = i / kPieces, piece = i % kPieces;
    copy_async_16(&smem.k[stage][r * Smem::kStride + piece * 8], k + row(r) * C::kDim + piece * 8);
  }
#pragma unroll 4
  for (int i = threadIdx.x; i < C::kKeys * kPiecesV; i += C::kThreads) {
    const int r = i / kPiecesV, piece = i % kPiecesV;
    copy_async_16(&smem.v[stage][r * Smem::kStrideV + piece * 8],
                  v + row(r) * C::kDimV + piece * 8);
  }
}

}  // namespace attention

template <class C>
__device__ __forceinline__ void attention_prefill(const typename C::E* q, const int* seq_starts,
                                                  const int* kv_lens, const int* block_tables,
                                                  const typename C::E* k, const typename C::E* v,
                                                  const typename C::Sink* sinks, typename C::E* out,
                                                  int S, const int* true_S) {
  using namespace attention;
  using E = typename C::E;
  using Smem = PrefillSmem<C>;
  constexpr int kGroup = C::kHeads / C::kKvHeads;
  constexpr int kSteps = C::kDim / 16;     // of Q . K^T
  constexpr int kKeyTiles = C::kKeys / 8;  // columns of S, in n8 tiles
  constexpr int kOutTiles = C::kDimV / 8;  // columns of O, in n8 tiles
  constexpr bool kHoldQ = C::kDim <= 128;  // else the registers go to O
  Smem& smem = *dynamic_smem<Smem>();
  wait_for_predecessor();
  const int kv_head = blockIdx.y;
  const TileIndex at = find_tile<kGroup, kRows>(seq_starts, true_size(true_S, S), blockIdx.x);
  if (at.sequence < 0) return;
  const int start = seq_starts[at.sequence];
  const int tokens = seq_starts[at.sequence + 1] - start;
  const int row0 = at.tile * kRows, row_end = ::min(row0 + kRows, tokens * kGroup);
  // Position of the sequence's first new token. Rows of an encoder see what its last token sees.
  const int before = C::kEncoder ? 0 : kv_lens[at.sequence] - tokens;
  const auto position_of = [&](int r) { return C::kEncoder ? tokens - 1 : before + r / kGroup; };
  const int first_position = position_of(row0), last_position = position_of(row_end - 1);
  const int key_begin = first_key<C>(first_position), key_end = last_position + 1;
  const KeyRows<C> key_row{block_tables + static_cast<int64>(at.sequence) * C::kTableCols, start};

  // Rows past the end repeat the last one and are not stored.
  const auto q_row = [&](int r) {
    r = ::min(r, row_end - 1);
    return (static_cast<int64>(start) + r / kGroup) * C::kHeads + kv_head * kGroup + r % kGroup;
  };
  for (int i = threadIdx.x; i < kRows * (C::kDim / 8); i += C::kThreads) {
    const int r = i / (C::kDim / 8), piece = i % (C::kDim / 8);
    copy_async_16(&smem.q[r * Smem::kStride + piece * 8],
                  q + q_row(row0 + r) * C::kDim + piece * 8);
  }
  load_keys<C>(smem, 0, k, v, key_row, kv_head, key_begin, key_end);

  const int lane = lane_index(), warp_row = warp_index() * 16;
  const int column = lane % 4 * 2;
  int position[2];  // of rows lane / 4 and lane / 4 + 8 of this warp
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    position[i] = position_of(::min(row0 + warp_row + lane / 4 + 8 * i, row_end - 1));
  }
  // Lane i addresses row i % 8 of matrix i / 8: for Q and V matrices 0, 1 are rows 0-7 and 8-15,
  // for K columns.
  const E* q_at = smem.q + (warp_row + lane % 16) * Smem::kStride + lane / 16 * 8;
  const int k_at = (lane / 16 * 8 + lane % 8) * Smem::kStride + lane / 8 % 2 * 8;
  const int v_at = lane % 16 * Smem::kStrideV + lane / 16 * 8;

  uint32 query[kHoldQ ? kSteps : 1][4];
  float o[kOutTiles][4] = {};
  float maximum[2] = {minus_infinity(), minus_infinity()}, sum[2] = {0, 0};
  int stage = 0;
  for (int key0 = key_begin; key0 < key_end; key0 += C::kKeys, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // this stage is complete, and nobody reads the other any more
    if (kHoldQ && key0 == key_begin) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) load_matrices(query[kHoldQ ? i : 0], q_at + i * 16);
    }
    if (key0 + C::kKeys < key_end) {
      load_keys<C>(smem, stage ^ 1, k, v, key_row, kv_head, key0 + C::kKeys, key_end);
    }

    float s[kKeyTiles][4] = {};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      uint32 loaded[4];
      if constexpr (!kHoldQ) load_matrices(loaded, q_at + i * 16);
      uint32(&a)[4] = kHoldQ ? query[kHoldQ ? i : 0] : loaded;
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        uint32 b[4];
        load_matrices(b, smem.k[stage] + k_at + n * 8 * Smem::kStride + i * 16);
        mma_16x8x16<E>(s[n], a[0], a[1], a[2], a[3], b[0], b[1]);
        mma_16x8x16<E>(s[n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }

    // A tile that all rows see whole needs no mask.
    const bool whole = key0 + C::kKeys - 1 <= first_position && key0 >= first_key<C>(last_position);
    float top[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[n][j] = score<C>(s[n][j]);
        if (!whole) {
          const int key = key0 + n * 8 + column + j % 2;
          if (key > position[j / 2] || key < first_key<C>(position[j / 2]))
            s[n][j] = minus_infinity();
        }
        top[j / 2] = ::fmaxf(top[j / 2], s[n][j]);
      }
    }
    float base[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = ::fmaxf(top[i], __shfl_xor_sync(kFullWarp, top[i], 1));
      top[i] = ::fmaxf(top[i], __shfl_xor_sync(kFullWarp, top[i], 2));
      base[i] = top[i] == minus_infinity() ? 0.0f : top[i];  // a row may see nothing yet
      const float shrink = exp2_fast(maximum[i] - base[i]);
      maximum[i] = top[i];
      sum[i] *= shrink;
#pragma unroll
      for (int n = 0; n < kOutTiles; ++n) {
        o[n][2 * i] *= shrink;
        o[n][2 * i + 1] *= shrink;
      }
    }
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[n][j] = exp2_fast(s[n][j] - base[j / 2]);
        sum[j / 2] += s[n][j];
      }
    }
#pragma unroll
    for (int i = 0; i < C::kKeys / 16; ++i) {  // P's accumulators are the A fragments as they are
      const uint32 a0 = pack2<E>(s[2 * i][0], s[2 * i][1]), a1 = pack2<E>(s[2 * i][2], s[2 * i][3]);
      const uint32 a2 = pack2<E>(s[2 * i + 1][0], s[2 * i + 1][1]);
      const uint32 a3 = pack2<E>(s[2 * i + 1][2], s[2 * i + 1][3]);
#pragma unroll
      for (int n = 0; n < kOutTiles; n += 2) {
        uint32 b[4];
        load_matrices_transposed(b, smem.v[stage] + v_at + i * 16 * Smem::kStrideV + n * 8);
        mma_16x8x16<E>(o[n], a0, a1, a2, a3, b[0], b[1]);
        mma_16x8x16<E>(o[n + 1], a0, a1, a2, a3, b[2], b[3]);
      }
    }
  }
  launch_dependents();

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] += __shfl_xor_sync(kFullWarp, sum[i], 1);
    sum[i] += __shfl_xor_sync(kFullWarp, sum[i], 2);
    const int r = row0 + warp_row + lane / 4 + 8 * i;
    if (r >= row_end) continue;
    const float scale = final_scale<C>(maximum[i], sum[i], sinks, kv_head * kGroup + r % kGroup);
    E* target = out + q_row(r) * C::kDimV + column;
#pragma unroll
    for (int n = 0; n < kOutTiles; ++n) {
      *reinterpret_cast<uint32*>(target + n * 8) =
          pack2<E>(o[n][2 * i] * scale, o[n][2 * i + 1] * scale);
    }
  }
}

}  // namespace shunt
