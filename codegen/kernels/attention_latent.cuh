// attention over rows whose first kDimV elements are the values (DeepSeek's latent cache: one wide
// row a token that all query heads share), bf16 or f16, with m16n8k16 on sm_80 and later.
//
// A block handles kRows = 16 * kRowGroups rows of one (sequence, key head): row r is query token
// r / G and head r % G of the group of G, so that even a single token fills tiles. A tile of kKeys
// rows of the cache comes through shared memory once, while the tile before is used, and serves as
// K and as V. Warps form kRowGroups groups of kColumnGroups: in S = Q . K^T the warps of a group
// share the keys among them, in O = P . V the columns, with P exchanged through shared memory.
//
// Decode (one token a sequence) cuts the keys over gridDim.z splits, for the true length, which is
// read on the device; attention_latent_merge, launched after it, joins sequences that took more
// than one. Otherwise blockIdx.x counts tiles over all sequences as in attention_prefill.cuh.
//
// Config: E (of q, k, out), Sink, kHeads, kKvHeads, kDim (a multiple of 32), kDimV (a multiple of
// 16 * kColumnGroups), kTableCols, kRowGroups, kColumnGroups, kDecode, kThreads, and those of
// attention_common.cuh.
#pragma once

#include "attention_common.cuh"

namespace shunt {

namespace attention {

template <class C>
struct Latent {
  using E = typename C::E;
  static constexpr int kRows = 16 * C::kRowGroups;
  static constexpr int kKeys = 32;  // of a tile
  static constexpr int kWarpKeys = kKeys / C::kColumnGroups;
  static constexpr int kKeyTiles = kWarpKeys / 8;
  static constexpr int kWarpColumns = C::kDimV / C::kColumnGroups;
  static constexpr int kOutTiles = kWarpColumns / 8;
  static constexpr int kGroup = C::kHeads / C::kKvHeads;
  static constexpr int kTiles = ceil_div(kGroup, kRows);  // of one token
  // Eight elements of padding make the eight rows of a matrix start in different banks.
  static constexpr int kStride = C::kDim + 8, kStrideP = kKeys + 8;
  static_assert(C::kThreads == 32 * C::kRowGroups * C::kColumnGroups);
  static_assert(kWarpKeys == 8 || kWarpKeys == 16);

  struct Smem {
    E q[kRows * kStride];
    E k[2][kKeys * kStride];
    E p[kRows * kStrideP];
    float top[C::kColumnGroups][kRows];
    float sum[C::kColumnGroups][kRows];
  };
};

/// How a sequence's visible keys [first, end) are split.
struct Splits {
  int first, end, per_split, count;
};
template <class C>
__device__ __forceinline__ Splits split_keys(int length, int most) {
  const int first = ::max(0, first_key<C>(length - 1)), keys = length - first;
  const int per_split = round_up(ceil_div(::max(keys, 1), most), Latent<C>::kKeys);
  return {first, length, per_split, ::max(1, ceil_div(keys, per_split))};
}

/// Where the outputs of the splits of row `row` of block (x, y) lie, in rows of kDimV floats.
template <class C>
__device__ __forceinline__ int64 partial_row(int x, int y, int split, int most, int row) {
  return ((static_cast<int64>(x) * C::kKvHeads + y) * most + split) * Latent<C>::kRows + row;
}

/// Starts the copy of keys [key0, key0 + kKeys) into one stage, a warp a row; keys from key_end on
/// repeat the last one.
template <class C>
__device__ __forceinline__ void load_latent(typename Latent<C>::E* stage,
                                            const typename Latent<C>::E* k,
                                            const KeyRows<C>& key_row, int kv_head, int key0,
                                            int key_end) {
  using L = Latent<C>;
  for (int r = warp_index(); r < L::kKeys; r += C::kThreads / 32) {
    const int64 row = key_row(::min(key0 + r, key_end - 1)) * C::kKvHeads + kv_head;
#pragma unroll
    for (int piece = lane_index(); piece < C::kDim / 8; piece += 32) {
      copy_async_16(stage + r * L::kStride + piece * 8, k + row * C::kDim + piece * 8);
    }
  }
}

/// Waits for the warps of a row group, which all must come.
template <class C>
__device__ __forceinline__ void sync_row_group(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(32 * C::kColumnGroups) : "memory");
}

/// s = scores of this warp's 16 rows and kWarpKeys keys of a tile. `q` and `k` are the addresses
/// that this lane gives to the matrix loads.
template <class C>
__device__ __forceinline__ void latent_scores(float (&s)[Latent<C>::kKeyTiles][4],
                                              const typename Latent<C>::E* q,
                                              const typename Latent<C>::E* k) {
  using E = typename C::E;
  constexpr int kKeyTiles = Latent<C>::kKeyTiles;
  float odd[kKeyTiles][4] = {};  // every other 16 channels: two chains of products
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
  for (int i = 0; i < C::kDim; i += 32) {
    uint32 a[4], a2[4], b[4];
    load_matrices(a, q + i);
    load_matrices(a2, q + i + 16);
    load_matrices(b, k + i);
    if constexpr (kKeyTiles == 1) {  // 8 keys, 32 channels
      mma_16x8x16<E>(s[0], a[0], a[1], a[2], a[3], b[0], b[1]);
      mma_16x8x16<E>(odd[0], a2[0], a2[1], a2[2], a2[3], b[2], b[3]);
    } else {  // 16 keys, 16 channels
      uint32 b2[4];
      load_matrices(b2, k + i + 16);
      mma_16x8x16<E>(s[0], a[0], a[1], a[2], a[3], b[0], b[1]);
      mma_16x8x16<E>(s[1], a[0], a[1], a[2], a[3], b[2], b[3]);
      mma_16x8x16<E>(odd[0], a2[0], a2[1], a2[2], a2[3], b2[0], b2[1]);
      mma_16x8x16<E>(odd[1], a2[0], a2[1], a2[2], a2[3], b2[2], b2[3]);
    }
  }
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) s[n][j] += odd[n][j];
  }
}

}  // namespace attention

/// `partial`: f32[gridDim.x, kKvHeads, gridDim.z, kRows, kDimV], `pairs`: a (maximum, sum) for each
/// of its rows; both are null with one split.
template <class C>
__device__ __forceinline__ void attention_latent(const typename C::E* q, const int* seq_starts,
                                                 const int* kv_lens, const int* block_tables,
                                                 const typename C::E* k,
                                                 const typename C::Sink* sinks,
                                                 typename C::E* out, float* partial, float2* pairs,
                                                 int S, const int* true_S) {
  using namespace attention;
  using E = typename C::E;
  using L = Latent<C>;
  typename L::Smem& smem = *dynamic_smem<typename L::Smem>();
  wait_for_predecessor();
  launch_dependents();
  TileIndex at;
  int start, tokens;
  if constexpr (C::kDecode) {
    at = {static_cast<int>(blockIdx.x) / L::kTiles, static_cast<int>(blockIdx.x) % L::kTiles};
    if (at.sequence >= true_size(true_S, S)) return;
    start = at.sequence;
    tokens = 1;
  } else {
    at = find_tile<L::kGroup, L::kRows>(seq_starts, true_size(true_S, S), blockIdx.x);
    if (at.sequence < 0) return;
    start = seq_starts[at.sequence];
    tokens = seq_starts[at.sequence + 1] - start;
  }
  const int kv_head = blockIdx.y;
  const int row0 = at.tile * L::kRows, row_end = ::min(row0 + L::kRows, tokens * L::kGroup);
  const int before = kv_lens[at.sequence] - tokens;  // position of the sequence's first new token
  const int first_position = before + row0 / L::kGroup,
            last_position = before + (row_end - 1) / L::kGroup;
  int key_begin = first_key<C>(first_position), key_end = last_position + 1, splits = 1;
  if constexpr (C::kDecode) {
    const Splits cut = split_keys<C>(key_end, gridDim.z);
    splits = cut.count;
    if (blockIdx.z >= splits) return;
    key_begin = cut.first + static_cast<int>(blockIdx.z) * cut.per_split;
    key_end = ::min(key_begin + cut.per_split, key_end);
  }
  const KeyRows<C> key_row{block_tables + static_cast<int64>(at.sequence) * C::kTableCols, start};

  // Rows past the end repeat the last one and are not stored.
  const auto q_row = [&](int r) {
    r = ::min(r, row_end - 1);
    return (static_cast<int64>(start) + r / L::kGroup) * C::kHeads + kv_head * L::kGroup +
           r % L::kGroup;
  };
  for (int r = warp_index(); r < L::kRows; r += C::kThreads / 32) {
    const E* row = q + q_row(row0 + r) * C::kDim;
#pragma unroll
    for (int piece = lane_index(); piece < C::kDim / 8; piece += 32) {
      copy_async_16(&smem.q[r * L::kStride + piece * 8], row + piece * 8);
    }
  }
  load_latent<C>(smem.k[0], k, key_row, kv_head, key_begin, key_end);

  const int lane = lane_index(), group = warp_index() / C::kColumnGroups,
            part = warp_index() % C::kColumnGroups;
  const int group_row = group * 16 + lane / 4, column = lane % 4 * 2;
  int position[2];  // of rows group_row and group_row + 8
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    position[i] = before + ::min(row0 + group_row + 8 * i, row_end - 1) / L::kGroup;
  }
  // Lane i addresses row i % 8 of matrix i / 8: for Q, P and V matrices 0, 1 are rows 0-7 and 8-15;
  // for K left and right half of keys 0-7, then of keys 8-15, or four quarters of 8 keys.
  const E* q_at = smem.q + (group * 16 + lane % 16) * L::kStride + lane / 16 * 8;
  const E* p_at = smem.p + (group * 16 + lane % 16) * L::kStrideP + lane / 16 * 8;
  const int k_at = part * L::kWarpKeys * L::kStride +
                   (L::kKeyTiles == 1 ? lane % 8 * L::kStride + lane / 8 * 8
                                      : (lane / 16 * 8 + lane % 8) * L::kStride + lane / 8 % 2 * 8);
  const int v_at = lane % 16 * L::kStride + lane / 16 * 8 + part * L::kWarpColumns;

  float o[L::kOutTiles][4] = {};
  float maximum[2] = {minus_infinity(), minus_infinity()}, sum[2] = {0, 0};
  int stage = 0;
  for (int key0 = key_begin; key0 < key_end; key0 += L::kKeys, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // this stage is complete, and nobody reads the other any more
    if (key0 + L::kKeys < key_end) {
      load_latent<C>(smem.k[stage ^ 1], k, key_row, kv_head, key0 + L::kKeys, key_end);
    }
    float s[L::kKeyTiles][4];
    latent_scores<C>(s, q_at, smem.k[stage] + k_at);

    // A tile that all rows see whole needs no mask.
    const bool whole = key0 + L::kKeys <= ::min(key_end, first_position + 1) &&
                       key0 >= first_key<C>(last_position);
    float top[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
    for (int n = 0; n < L::kKeyTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[n][j] = score<C>(s[n][j]);
        if (!whole) {
          const int key = key0 + part * L::kWarpKeys + n * 8 + column + j % 2;
          const int last = ::min(position[j / 2], key_end - 1);
          if (key > last || key < first_key<C>(position[j / 2])) s[n][j] = minus_infinity();
        }
        top[j / 2] = ::fmaxf(top[j / 2], s[n][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = ::fmaxf(top[i], __shfl_xor_sync(kFullWarp, top[i], 1));
      top[i] = ::fmaxf(top[i], __shfl_xor_sync(kFullWarp, top[i], 2));
      if (lane % 4 == 0) smem.top[part][group_row + 8 * i] = top[i];
    }
    sync_row_group<C>(group);
    float shrink[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = maximum[i];
#pragma unroll
      for (int w = 0; w < C::kColumnGroups; ++w) {
        top[i] = ::fmaxf(top[i], smem.top[w][group_row + 8 * i]);
      }
      shrink[i] = exp2_from(maximum[i], top[i]);
      maximum[i] = top[i];
      sum[i] *= shrink[i];
    }
#pragma unroll
    for (int n = 0; n < L::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float p0 = exp2_from(s[n][2 * i], top[i]), p1 = exp2_from(s[n][2 * i + 1], top[i]);
        sum[i] += p0 + p1;
        const int at_p = (group_row + 8 * i) * L::kStrideP + part * L::kWarpKeys + n * 8 + column;
        *reinterpret_cast<uint32*>(&smem.p[at_p]) = pack2<E>(p0, p1);
      }
    }
    if (__any_sync(kFullWarp, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
      for (int n = 0; n < L::kOutTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) o[n][j] *= shrink[j / 2];
      }
    }
    sync_row_group<C>(group);
#pragma unroll
    for (int i = 0; i < L::kKeys / 16; ++i) {
      uint32 a[4];
      load_matrices(a, p_at + i * 16);
#pragma unroll
      for (int n = 0; n < L::kOutTiles; n += 2) {
        uint32 b[4];
        load_matrices_transposed(b, smem.k[stage] + v_at + i * 16 * L::kStride + n * 8);
        mma_16x8x16<E>(o[n], a[0], a[1], a[2], a[3], b[0], b[1]);
        mma_16x8x16<E>(o[n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] += __shfl_xor_sync(kFullWarp, sum[i], 1);
    sum[i] += __shfl_xor_sync(kFullWarp, sum[i], 2);
    if (lane % 4 == 0) smem.sum[part][group_row + 8 * i] = sum[i];
  }
  sync_row_group<C>(group);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int block_row = group_row + 8 * i, r = row0 + block_row;
    if (r >= row_end) continue;
    float total = 0;
#pragma unroll
    for (int w = 0; w < C::kColumnGroups; ++w) total += smem.sum[w][block_row];
    const int first_column = part * L::kWarpColumns + column;
    if (splits > 1) {
      const int64 slot = partial_row<C>(blockIdx.x, kv_head, blockIdx.z, gridDim.z, block_row);
      if (part == 0 && lane % 4 == 0) pairs[slot] = make_float2(maximum[i], total);
#pragma unroll
      for (int n = 0; n < L::kOutTiles; ++n) {
        *reinterpret_cast<float2*>(partial + slot * C::kDimV + first_column + n * 8) =
            make_float2(o[n][2 * i], o[n][2 * i + 1]);
      }
      continue;
    }
    const float scale =
        final_scale<C>(maximum[i], total, sinks, kv_head * L::kGroup + r % L::kGroup);
    E* target = out + q_row(r) * C::kDimV + first_column;
#pragma unroll
    for (int n = 0; n < L::kOutTiles; ++n) {
      *reinterpret_cast<uint32*>(target + n * 8) =
          pack2<E>(o[n][2 * i] * scale, o[n][2 * i + 1] * scale);
    }
  }
}

/// Joins the splits: a block a (head, sequence). Config: that of attention_latent, kMaxSplits (of
/// its launch) and kMergeThreads.
template <class C>
__device__ __forceinline__ void attention_latent_merge(const int* kv_lens,
                                                       const typename C::Sink* sinks,
                                                       const float* partial, const float2* pairs,
                                                       typename C::E* out, int S,
                                                       const int* true_S) {
  using namespace attention;
  using L = Latent<C>;
  wait_for_predecessor();
  launch_dependents();
  const int head = blockIdx.x, sequence = blockIdx.y;
  if (sequence >= true_size(true_S, S)) return;
  const int splits = split_keys<C>(kv_lens[sequence], C::kMaxSplits).count;
  if (splits == 1) return;  // stored already
  const int kv_head = head / L::kGroup, row = head % L::kGroup;
  const int64 slot = partial_row<C>(sequence * L::kTiles + row / L::kRows, kv_head, 0,
                                    C::kMaxSplits, row % L::kRows);
  __shared__ float weights[C::kMaxSplits];
  if (warp_index() == 0) {
    float top = minus_infinity(), total = 0;
    for (int i = lane_index(); i < splits; i += 32) top = ::fmaxf(top, pairs[slot + i * L::kRows].x);
    top = warp_max(top);
    for (int i = lane_index(); i < splits; i += 32) {
      const float2 pair = pairs[slot + i * L::kRows];
      weights[i] = exp2_from(pair.x, top);
      total += pair.y * weights[i];
    }
    const float scale = final_scale<C>(top, warp_sum(total), sinks, head);
    for (int i = lane_index(); i < splits; i += 32) weights[i] *= scale;
  }
  __syncthreads();
  typename C::E* target = out + (static_cast<int64>(sequence) * C::kHeads + head) * C::kDimV;
  for (int d = threadIdx.x; d < C::kDimV; d += C::kMergeThreads) {
    float result = 0;
#pragma unroll 8
    for (int i = 0; i < splits; ++i) {
      result += weights[i] * partial[(slot + static_cast<int64>(i) * L::kRows) * C::kDimV + d];
    }
    target[d] = from_float<typename C::E>(result);
  }
}

}  // namespace shunt
