// attention when every sequence has one new token: split-KV flash decoding on tensor cores, bf16 or
// f16.
//
// A block handles (sequence, key head, up to 16 of its query heads, split of the keys); its warps
// take tiles of 16 keys in turn, each through a ring of kStages tiles in shared memory that is its
// own: what a warp copies it alone reads, so that no warp waits for another before the end. Keys
// are rows and query heads the 8 columns of an m16n8k16:
//
//   S^T[16 keys, 8 heads]     = K[16 keys, D] . Q^T[D, 8 heads]
//   O^T[channels, 8 heads]   += V^T[channels, 16 keys] . P^T[16 keys, 8 heads]
//
// P^T is P's accumulator after an 8x8 transposition within the warp.
//
// The predecessor writes the queries and each sequence's newest key. The lengths, the page tables
// and all other keys are older: copies of the first tiles are on their way while it still runs. So
// no two rows of a step may be of one sequence: the second would need a key that is not that old.
//
// Of the blocks of a key head every sequence has one, and in batches of up to 64 the others go
// where there are most keys: true lengths are read on the device, and each block finds out by
// itself which share it has. How a sequence is split, and so the last bits of its result, depends
// on the lengths beside it. The block that finishes last for a (sequence, key head, pass) joins the
// splits; its counter is a device variable of this kernel's module, zero when loaded and reset by
// that block.
//
// Config: E (of q, k, v, out), Sink, kHeads, kKvHeads, kDim, kDimV (multiples of 16), kPageSize,
// kTableCols, kHeadTiles (1 or 2: 8 or 16 heads a block), kPasses (blocks for the query heads of
// one key head), kStages, kMaxCounters, kThreads, and those of attention_common.cuh.
#pragma once

#include "attention_common.cuh"
#include "common/arrivals.cuh"
#include "mma/mma.cuh"

namespace shunt {

namespace attention {

/// Arrivals of the splits of each (sequence, key head, pass).
template <int kCount>
__device__ unsigned int arrivals[kCount];

/// Which keys of which sequence a block has: split number `split` of `splits`.
struct Share {
  int sequence = -1;  // none
  int split = 0, splits = 1;
  int begin = 0, end = 0;
  int newest = 0;  // the sequence's last key

  /// Cuts the keys that the query of a sequence of `length` sees in at most `pieces` of whole
  /// tiles.
  template <class C>
  static __device__ __forceinline__ Share cut(int sequence, int length, int piece, int pieces) {
    const int first = ::max(0, first_key<C>(length - 1)), keys = length - first;
    const int each = ::max(16, round_up(ceil_div(keys, pieces), 16));
    const int begin = first + piece * each;
    if (piece > 0 && begin >= length) return {};
    return {sequence,  piece, ::max(1, ceil_div(keys, each)), begin, ::min(begin + each, length),
            length - 1};
  }
};

/// The most sequences that blocks are dealt out to.
inline constexpr int kMostShared = 64;

/// The share of block `index` of `blocks`. Every warp of a block comes to the same answer.
template <class C>
__device__ __forceinline__ Share find_share(const int* kv_lens, int S, const int* true_S, int index,
                                            int blocks) {
  constexpr int kRounds = kMostShared / 32, kStepTiles = C::kThreads / 32;
  int lengths[kRounds], tiles[kRounds];
  unsigned int all = 0;  // tiles
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int s = r * 32 + lane_index();
    lengths[r] = s < S ? load_early(kv_lens + s) : 0;
  }
  const int sequences = true_S != nullptr ? ::min(load_early(true_S), S) : S;
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const bool there = r * 32 + lane_index() < sequences;
    tiles[r] = there ? ceil_div(lengths[r] - ::max(0, first_key<C>(lengths[r] - 1)), 16) : 0;
    all += tiles[r];
  }
  all = ::max(1u, __reduce_add_sync(kFullWarp, all));
  int sequence = -1, length = 0, piece = 0, pieces = 1, before = 0;  // blocks of earlier sequences
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    int splits = r * 32 + lane_index() < sequences;
    // What a block asks for at once is not worth splitting.
    if (tiles[r] > C::kStages * kStepTiles) {
      const unsigned int share = static_cast<unsigned int>(blocks - sequences) * tiles[r] / all;
      splits = ::min(splits + static_cast<int>(share), ceil_div(tiles[r], kStepTiles));
    }
    int upto = splits;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(kFullWarp, upto, step);
      if (lane_index() >= step) upto += other;
    }
    const unsigned int beyond = __ballot_sync(kFullWarp, before + upto > index);
    if (sequence < 0 && beyond != 0) {
      const int found = __ffs(beyond) - 1;
      sequence = r * 32 + found;
      length = __shfl_sync(kFullWarp, lengths[r], found);
      pieces = __shfl_sync(kFullWarp, splits, found);
      piece = index - before - __shfl_sync(kFullWarp, upto, found) + pieces;
    }
    before += __shfl_sync(kFullWarp, upto, 31);
  }
  if (sequence < 0) return {};
  return Share::cut<C>(sequence, length, piece, pieces);
}

/// The same where every sequence has one block.
template <class C>
__device__ __forceinline__ Share whole_share(const int* kv_lens, int S, const int* true_S,
                                             int index) {
  const int length = index < S ? load_early(kv_lens + index) : 0;
  if (index >= (true_S != nullptr ? ::min(load_early(true_S), S) : S)) return {};
  return Share::cut<C>(index, length, 0, 1);
}

/// 16 rows of 16-bit channels in shared memory. Eight channels of padding make the eight rows of
/// a matrix start in different banks.
template <class E, int kChannels>
struct PaddedRows {
  static constexpr int kStride = kChannels + 8;
  E at[16 * kStride];
};

/// Dynamic shared memory: the rings, and once they have been used up the outputs of the warps.
template <class C>
union DecodeSmem {
  static constexpr int kWarps = C::kThreads / 32;
  static constexpr int kStrideOut = C::kDimV + 4;  // a warp stores to all banks at once
  struct Tile {
    PaddedRows<typename C::E, C::kDim> k;
    PaddedRows<typename C::E, C::kDimV> v;
  };
  Tile tiles[kWarps][C::kStages];
  float output[kWarps][8 * C::kHeadTiles][kStrideOut];
};

/// Starts the copies of 16 rows of `from`, lane i of the warp knowing the number of row i. As many
/// lanes as it takes, up to 16, copy one row.
template <class E, int kChannels>
__device__ __forceinline__ void copy_rows(PaddedRows<E, kChannels>& to, const E* from, uint32 row) {
  constexpr int kLanes = kChannels >= 128 ? 16 : kChannels >= 64 ? 8 : kChannels >= 32 ? 4 : 2;
  const int first = lane_index() % kLanes * 8;
#pragma unroll
  for (int j = 0; j < 16; j += 32 / kLanes) {
    const int n = j + lane_index() / kLanes;
    const E* source = from + static_cast<int64>(__shfl_sync(kFullWarp, row, n)) * kChannels + first;
#pragma unroll
    for (int i = 0; i < kChannels; i += 8 * kLanes) {
      if (i + 8 * kLanes <= kChannels || i + first < kChannels)
        copy16_async(smem_address(&to.at[n * to.kStride + i + first]), source + i);
    }
  }
}

/// Running softmax and output of one warp: O^T of kTiles x 8 heads. Of each tile a lane has heads
/// 2*(lane % 4) and the next, and of every 16 channels number lane / 4 and that + 8.
template <class C>
struct DecodeState {
  static constexpr int kTiles = C::kHeadTiles, kSteps = C::kDimV / 16;
  float maximum[kTiles][2];
  float sum[kTiles][2];
  float o[kTiles][kSteps]
         [4];  // (channel, head), (channel, head + 1), (channel + 8, head), (channel + 8, head + 1)

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      maximum[n][0] = maximum[n][1] = minus_infinity();
      sum[n][0] = sum[n][1] = 0;
#pragma unroll
      for (int w = 0; w < kSteps; ++w) o[n][w][0] = o[n][w][1] = o[n][w][2] = o[n][w][3] = 0;
    }
  }

  /// Takes scores s of tile n: keys lane / 4 and lane / 4 + 8, at least one of the tile's keys
  /// visible. Returns P^T as the two registers of a B fragment.
  __device__ __forceinline__ uint2 softmax(int n, float (&s)[4]) {
    float top0 = ::fmaxf(s[0], s[2]), top1 = ::fmaxf(s[1], s[3]);
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      top0 = ::fmaxf(top0, __shfl_xor_sync(kFullWarp, top0, step));
      top1 = ::fmaxf(top1, __shfl_xor_sync(kFullWarp, top1, step));
    }
    top0 = ::fmaxf(top0, maximum[n][0]);
    top1 = ::fmaxf(top1, maximum[n][1]);
    const float shrink0 = exp2_fast(maximum[n][0] - top0),
                shrink1 = exp2_fast(maximum[n][1] - top1);
    maximum[n][0] = top0;
    maximum[n][1] = top1;
    const float p0 = exp2_fast(s[0] - top0), p1 = exp2_fast(s[1] - top1);
    const float p2 = exp2_fast(s[2] - top0), p3 = exp2_fast(s[3] - top1);
    sum[n][0] = sum[n][0] * shrink0 + p0 + p2;
    sum[n][1] = sum[n][1] * shrink1 + p1 + p3;
#pragma unroll
    for (int w = 0; w < kSteps; ++w) {
      o[n][w][0] *= shrink0;
      o[n][w][1] *= shrink1;
      o[n][w][2] *= shrink0;
      o[n][w][3] *= shrink1;
    }
    return make_uint2(transpose_8x8(pack2<typename C::E>(p0, p1)),
                      transpose_8x8(pack2<typename C::E>(p2, p3)));
  }

  /// Stores the output, and to `pairs` each head's (maximum, sum).
  __device__ __forceinline__ void store(float (*output)[DecodeSmem<C>::kStrideOut],
                                        float2* pairs) const {
    const int part = lane_index() / 4, column = lane_index() % 4;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int head = n * 8 + 2 * column + h;
        float total = sum[n][h];  // of this lane's keys: the lanes of a column have the others
#pragma unroll
        for (int step = 4; step < 32; step *= 2) {
          total += __shfl_xor_sync(kFullWarp, total, step);
        }
        if (part == 0) pairs[head] = make_float2(maximum[n][h], total);
#pragma unroll
        for (int w = 0; w < kSteps; ++w) {
          output[head][w * 16 + part] = o[n][w][h];
          output[head][w * 16 + part + 8] = o[n][w][h + 2];
        }
      }
    }
  }
};

/// Four channels of a head's output, not yet divided by `sum`, all in units of 2^maximum.
struct Joined {
  float maximum = minus_infinity(), sum = 0;
  float value[4] = {};
};

/// Joins what parts 0, 1, ... of the keys came to, in this order: pair(i) is the (maximum, sum) of
/// one, value(i) its output. kAtOnce of them are on their way at a time.
template <int kAtOnce, class Pair, class Value>
__device__ __forceinline__ Joined join(int parts, const Pair& pair, const Value& value) {
  Joined all;
  for (int first = 0; first < parts; first += kAtOnce) {
    float2 pairs[kAtOnce];
    float4 values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const bool there = first + i < parts;
      pairs[i] = there ? pair(first + i) : make_float2(minus_infinity(), 0);
      values[i] = there ? value(first + i) : make_float4(0, 0, 0, 0);
    }
    float top = all.maximum;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) top = ::fmaxf(top, pairs[i].x);
    const float shrink = exp2_from(all.maximum, top);
    all.maximum = top;
    all.sum *= shrink;
#pragma unroll
    for (int j = 0; j < 4; ++j) all.value[j] *= shrink;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float weight = exp2_from(pairs[i].x, top);
      all.sum += pairs[i].y * weight;
      all.value[0] += values[i].x * weight;
      all.value[1] += values[i].y * weight;
      all.value[2] += values[i].z * weight;
      all.value[3] += values[i].w * weight;
    }
  }
  return all;
}

}  // namespace attention

/// Grid: (kKvHeads * kPasses, blocks that the sequences share). `partial`: f32[gridDim.y,
/// gridDim.x, 8 * kHeadTiles, kDimV], then float2 of the same without kDimV; null if no sequence is
/// split.
template <class C>
__device__ __forceinline__ void attention_decode(const typename C::E* q, const int* kv_lens,
                                                 const int* block_tables, const typename C::E* k,
                                                 const typename C::E* v,
                                                 const typename C::Sink* sinks, typename C::E* out,
                                                 float* partial, int S, const int* true_S) {
  using namespace attention;
  using E = typename C::E;
  using Smem = DecodeSmem<C>;
  constexpr int kTiles = C::kHeadTiles, kBlockHeads = 8 * kTiles, kWarps = C::kThreads / 32;
  constexpr int kStep = 16 * kWarps, kGroup = C::kHeads / C::kKvHeads, kPieces = C::kDimV / 4;
  Smem& smem = *dynamic_smem<Smem>();
  __shared__ float2 pairs[kWarps][kBlockHeads];
  const int kv_head = blockIdx.x / C::kPasses;
  const int first_head = blockIdx.x % C::kPasses * kBlockHeads;  // within the group
  const Share share = partial == nullptr ? whole_share<C>(kv_lens, S, true_S, blockIdx.y)
                                         : find_share<C>(kv_lens, S, true_S, blockIdx.y, gridDim.y);
  const int sequence = share.sequence, split = share.split, splits = share.splits;
  if (sequence < 0) {
    wait_for_predecessor();
    return;
  }

  // Tile i of this warp, of `tiles`: 16 keys from tile_key(i) on, of which those past the end
  // repeat the last one.
  const int begin = share.begin, end = share.end;
  const auto tile_key = [&](int i) { return begin + i * kStep + warp_index() * 16; };
  const int tiles = ::max(0, ceil_div(end - tile_key(0), kStep));
  const int* table = block_tables + static_cast<int64>(sequence) * C::kTableCols;
  const auto page_of = [&](int i) {  // of key number lane_index() % 16, if there is such a tile
    const int key = ::min(tile_key(i) + lane_index() % 16, end - 1);
    return i < tiles ? load_early(table + key / C::kPageSize) : 0;
  };
  auto& ring = smem.tiles[warp_index()];
  const auto row_of = [&](int i, int page) {  // of the same key. No state has 2^32 rows
    const int in_page = ::min(tile_key(i) + lane_index() % 16, end - 1) % C::kPageSize;
    return (static_cast<uint32>(page) * C::kPageSize + in_page) * C::kKvHeads + kv_head;
  };
  const auto start_tile = [&](int i, int page) {
    auto& to = ring[i % C::kStages];
    const uint32 row = row_of(i, page);
    copy_rows(to.k, k, row);
    copy_rows(to.v, v, row);
  };
  int pages[C::kStages + 1];
#pragma unroll
  for (int i = 0; i <= C::kStages; ++i) pages[i] = page_of(i);
  const int last_page = page_of(::max(0, tiles - 1));
  // The tile with the newest key, the last of its warp, is copied after the wait, but comes to the
  // L2 cache before.
  const auto is_old = [&](int i) { return tile_key(i) + 16 <= share.newest; };
  const bool is_last_late = tiles > 0 && tiles <= C::kStages && !is_old(tiles - 1);
#pragma unroll
  for (int i = 0; i < C::kStages; ++i) {
    if (i < tiles && is_old(i)) start_tile(i, pages[i]);
    commit_copies();
  }
  if (is_last_late) {
    const int64 row = row_of(tiles - 1, last_page);
    if (lane_index() < 16) {
      prefetch_l2<C::kDim * 2>(k + row * C::kDim);
    } else {
      prefetch_l2<C::kDimV * 2>(v + row * C::kDimV);
    }
  }
  wait_for_predecessor();
  launch_dependents();
  if (is_last_late) start_tile(tiles - 1, last_page);
  commit_copies();

  const int part = lane_index() / 4, column = lane_index() % 4;
  const E* queries =
      q + (static_cast<int64>(sequence) * C::kHeads + kv_head * kGroup + first_head) * C::kDim;
  uint32 query[kTiles][C::kDim / 8];  // of head `part`: channels 2 * column and the next of every 8
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int head = n * 8 + part;
#pragma unroll
    for (int w = 0; w < C::kDim / 8; ++w) {
      query[n][w] =
          first_head + head < kGroup
              ? *reinterpret_cast<const uint32*>(queries + head * C::kDim + w * 8 + column * 2)
              : 0;
    }
  }
  // Lane i addresses row i % 8 of matrix i / 8. Of K these are keys 0-7 and 8-15 of 8 channels,
  // then of the next 8; of V, which is transposed, 8 channels and the next 8 of keys 0-7, then of
  // 8-15.
  const int k_at = lane_index() % 16 * ring[0].k.kStride + lane_index() / 16 * 8;
  const int v_at =
      (lane_index() / 16 * 8 + lane_index() % 8) * ring[0].v.kStride + lane_index() / 8 % 2 * 8;
  DecodeState<C> state;
  state.clear();
  int ahead = pages[C::kStages];
  for (int i = 0; i < tiles; ++i) {
    if (i + 1 < tiles) {
      wait_copies<C::kStages - 1>();
    } else {
      wait_for_copies();
    }
    __syncwarp();
    const auto& tile = ring[i % C::kStages];
    float s[kTiles][4] = {},
          odd[kTiles][4] = {};  // every other 16 channels: two chains of products
#pragma unroll
    for (int w = 0; w < C::kDim / 16; ++w) {
      uint32 a[4];
      load_matrices(a, tile.k.at + k_at + w * 16);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        mma_16x8x16<E>(w % 2 == 0 ? s[n] : odd[n], a[0], a[1], a[2], a[3], query[n][2 * w],
                       query[n][2 * w + 1]);
      }
    }
    uint2 p[kTiles];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = tile_key(i) + part + j / 2 * 8;
        s[n][j] = key < end ? score<C>(s[n][j] + odd[n][j]) : minus_infinity();
      }
      p[n] = state.softmax(n, s[n]);
    }
#pragma unroll
    for (int w = 0; w < C::kDimV / 16; ++w) {
      uint32 a[4];
      load_matrices_transposed(a, tile.v.at + v_at + w * 16);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        mma_16x8x16<E>(state.o[n][w], a[0], a[1], a[2], a[3], p[n].x, p[n].y);
      }
    }
    __syncwarp();  // before the tile is overwritten
    if (i + C::kStages < tiles) start_tile(i + C::kStages, ahead);
    commit_copies();
    ahead = page_of(i + C::kStages + 1);
  }

  __syncthreads();  // the outputs of the warps lie where the tiles were
  state.store(smem.output[warp_index()], pairs[warp_index()]);
  __syncthreads();
  const int heads = ::min(kGroup - first_head, kBlockHeads);
  const int out_head = kv_head * kGroup + first_head;
  const auto store_out = [&](int head, int channel, const Joined& x) {
    const float scale = final_scale<C>(x.maximum, x.sum, sinks, out_head + head);
    Vec<float, 4> result;
#pragma unroll
    for (int j = 0; j < 4; ++j) result[j] = x.value[j] * scale;
    store(out + (static_cast<int64>(sequence) * C::kHeads + out_head + head) * C::kDimV + channel,
          from_float<E>(result));
  };
  // Where a split keeps one of its heads, in rows of kDimV.
  const auto split_row = [&](int j, int head) {
    return static_cast<int64>((blockIdx.y - split + j) * gridDim.x + blockIdx.x) * kBlockHeads +
           head;
  };
  float2* split_pairs = reinterpret_cast<float2*>(partial + static_cast<int64>(gridDim.y) *
                                                                gridDim.x * kBlockHeads * C::kDimV);
  for (int i = threadIdx.x; i < heads * kPieces; i += C::kThreads) {
    const int head = i / kPieces, channel = i % kPieces * 4;
    const Joined x = join<kWarps>(
        kWarps, [&](int w) { return pairs[w][head]; },
        [&](int w) { return *reinterpret_cast<const float4*>(&smem.output[w][head][channel]); });
    if (splits == 1) {
      store_out(head, channel, x);
      continue;
    }
    const int64 row = split_row(split, head);
    *reinterpret_cast<float4*>(partial + row * C::kDimV + channel) =
        make_float4(x.value[0], x.value[1], x.value[2], x.value[3]);
    if (channel == 0) split_pairs[row] = make_float2(x.maximum, x.sum);
  }
  if (splits == 1) return;
  unsigned int* counter = &arrivals<C::kMaxCounters>[sequence * gridDim.x + blockIdx.x];
  if (!arrives_last(counter, splits)) return;

  for (int i = threadIdx.x; i < heads * kPieces; i += C::kThreads) {
    const int head = i / kPieces, channel = i % kPieces * 4;
    store_out(head, channel,
              join<16>(
                  splits, [&](int j) { return __ldcg(split_pairs + split_row(j, head)); },
                  [&](int j) {
                    return __ldcg(reinterpret_cast<const float4*>(
                        partial + split_row(j, head) * C::kDimV + channel));
                  }));
  }
}

}  // namespace shunt
