// attention when every sequence has one new token: split-KV flash decoding on tensor cores, bf16 or
// f16.
//
// A block handles (sequence, key head, up to 16 of its query heads, split of the keys); its four
// warps take tiles of 16 keys in turn. All matrices are transposed, so that keys are rows and query
// heads the 8 columns of an m16n8k16:
//
//   S^T[16 keys, 8 heads]     = K[16 keys, D] . Q^T[D, 8 heads]
//   O^T[channels, 8 heads]   += V^T[channels, 16 keys] . P^T[16 keys, 8 heads]
//
// K and V go from global memory straight into fragments. A fragment wants pairs of channels that a
// row-major load does not give; but the order of channels within a product's sum (K) and of its
// rows (V) is free, as long as Q, or the store of O, uses the same order. So a lane loads 16
// contiguous bytes and they count as whatever channels the fragment has there (RowShare). P^T is
// P's accumulator after an 8x8 transposition within the warp.
//
// Splits are cut for the true length, read on the device: a split beyond it exits at once. The
// block that finishes last for a (sequence, key head) merges the splits; its counter is a device
// variable of this kernel's module, zero when loaded and reset by that block.
//
// Config: E (of q, k, v, out), Sink, kHeads, kKvHeads, kDim, kDimV (multiples of 16), kPageSize,
// kTableCols, kHeadTiles (1 or 2: 8 or 16 heads a block), kPasses (blocks for the query heads of
// one key head), kMaxSplits, kMaxPages (of one split), kMaxCounters, kThreads (128), and those of
// attention_common.cuh.
#pragma once

#include "attention_common.cuh"
#include "common/arrivals.cuh"

namespace shunt {

namespace attention {

/// Arrivals of the splits of each (sequence, key head, pass).
template <int kCount>
__device__ unsigned int arrivals[kCount];

/// How kLanes lanes share a row of kChannels 16-bit channels: pieces of 16 bytes a lane, then of 8,
/// then of 4. Word w of lane `part` holds channels channel(w, part) and the next.
template <int kChannels, int kLanes>
struct RowShare {
  static constexpr int kWords = kChannels / (2 * kLanes);
  static constexpr int kFull = kChannels / (8 * kLanes);
  static constexpr int kRest = kChannels % (8 * kLanes);
  static constexpr bool kHalf = kRest >= 4 * kLanes;
  static constexpr bool kQuarter = kRest % (4 * kLanes) != 0;
  static_assert(kRest % (2 * kLanes) == 0, "the lanes share a row evenly");

  static __device__ __forceinline__ int channel(int word, int part) {
    if (word < 4 * kFull) return word / 4 * 8 * kLanes + part * 8 + word % 4 * 2;
    word -= 4 * kFull;
    if (kHalf && word < 2) return kFull * 8 * kLanes + part * 4 + word * 2;
    return kFull * 8 * kLanes + (kHalf ? 4 * kLanes : 0) + part * 2;
  }

  template <class T>
  static __device__ __forceinline__ void load(const T* row, int part, uint32 (&words)[kWords]) {
#pragma unroll
    for (int i = 0; i < kFull; ++i) {
      const uint4 v = *reinterpret_cast<const uint4*>(row + channel(4 * i, part));
      words[4 * i] = v.x;
      words[4 * i + 1] = v.y;
      words[4 * i + 2] = v.z;
      words[4 * i + 3] = v.w;
    }
    if constexpr (kHalf) {
      const uint2 v = *reinterpret_cast<const uint2*>(row + channel(4 * kFull, part));
      words[4 * kFull] = v.x;
      words[4 * kFull + 1] = v.y;
    }
    if constexpr (kQuarter) {
      words[kWords - 1] = *reinterpret_cast<const uint32*>(row + channel(kWords - 1, part));
    }
  }
};

/// Running softmax and output of one warp: O^T of kTiles x 8 heads. Of each tile a lane has heads
/// 2*(lane % 4) and the next, and the channels of part lane / 4.
template <class C>
struct DecodeState {
  static constexpr int kTiles = C::kHeadTiles;
  static constexpr int kWords = RowShare<C::kDimV, 8>::kWords;
  float maximum[kTiles][2];
  float sum[kTiles][2];
  float o[kTiles][kWords]
         [4];  // (channel, head), (channel, head + 1), (channel + 1, head), (channel + 1, head + 1)

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      maximum[n][0] = maximum[n][1] = minus_infinity();
      sum[n][0] = sum[n][1] = 0;
#pragma unroll
      for (int w = 0; w < kWords; ++w) o[n][w][0] = o[n][w][1] = o[n][w][2] = o[n][w][3] = 0;
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
    for (int w = 0; w < kWords; ++w) {
      o[n][w][0] *= shrink0;
      o[n][w][1] *= shrink1;
      o[n][w][2] *= shrink0;
      o[n][w][3] *= shrink1;
    }
    return make_uint2(transpose_8x8(pack2<typename C::E>(p0, p1)),
                      transpose_8x8(pack2<typename C::E>(p2, p3)));
  }
};

/// Merges the warps of a block. Afterwards shared memory holds, for each of the block's heads, the
/// unnormalised output and (maximum, sum).
template <class C>
__device__ __forceinline__ void merge_warps(DecodeState<C>& state, float (*output)[C::kDimV],
                                            float2* softmax) {
  constexpr int kTiles = C::kHeadTiles, kWarps = C::kThreads / 32;
  using Share = RowShare<C::kDimV, 8>;
  __shared__ float2 parts[kWarps][8 * kTiles];
  const int part = lane_index() / 4, column = lane_index() % 4, warp = warp_index();
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = state.sum[n][h];  // of this lane's keys: the lanes of a column have the others
#pragma unroll
      for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
      if (part == 0) parts[warp][n * 8 + 2 * column + h] = make_float2(state.maximum[n][h], sum);
    }
  }
  __syncthreads();
  float scale[kTiles][2];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int head = n * 8 + 2 * column + h;
      float top = minus_infinity(), total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) top = ::fmaxf(top, parts[w][head].x);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) total += parts[w][head].y * exp2_from(parts[w][head].x, top);
      scale[n][h] = exp2_from(state.maximum[n][h], top);
      if (warp == 0 && part == 0) softmax[head] = make_float2(top, total);
    }
  }
  for (int w = 0; w < kWarps; ++w) {  // one warp after the other: a fixed order of additions
    if (warp == w) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < Share::kWords; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int h = j % 2;
            float* at = &output[n * 8 + 2 * column + h][Share::channel(i, part) + j / 2];
            const float value = state.o[n][i][j] * scale[n][h];
            *at = w == 0 ? value : *at + value;
          }
        }
      }
    }
    __syncthreads();
  }
}

}  // namespace attention

/// `partial`: f32[S, kKvHeads * kPasses, gridDim.x, 8 * kHeadTiles, kDimV], then float2 of the same
/// without kDimV.
template <class C>
__device__ __forceinline__ void attention_decode(const typename C::E* q, const int* kv_lens,
                                                 const int* block_tables, const typename C::E* k,
                                                 const typename C::E* v,
                                                 const typename C::Sink* sinks, typename C::E* out,
                                                 float* partial, int S, const int* true_S) {
  using namespace attention;
  using E = typename C::E;
  constexpr int kTiles = C::kHeadTiles, kBlockHeads = 8 * kTiles, kStep = C::kThreads / 32 * 16;
  constexpr int kGroup = C::kHeads / C::kKvHeads;
  using ShareK = RowShare<C::kDim, 4>;
  using ShareV = RowShare<C::kDimV, 8>;
  __shared__ int pages[C::kMaxPages];
  __shared__ float output[kBlockHeads][C::kDimV];
  __shared__ float2 softmax[kBlockHeads];
  wait_for_predecessor();
  launch_dependents();
  const int split = blockIdx.x, sequence = blockIdx.z;
  const int kv_head = blockIdx.y / C::kPasses;
  const int first_head = blockIdx.y % C::kPasses * kBlockHeads;  // within the group
  if (sequence >= true_size(true_S, S)) return;
  const int position = kv_lens[sequence] - 1;
  const int first = ::max(0, first_key<C>(position));
  const int count = position + 1 - first;
  const int per_split = round_up(ceil_div(count, static_cast<int>(gridDim.x)), kStep);
  const int splits = count > 0 ? ceil_div(count, per_split) : 1;
  if (split >= splits) return;
  const int begin = first + split * per_split;
  const int end = ::min(begin + per_split, position + 1);

  const int first_page = begin / C::kPageSize;
  const int* table = block_tables + static_cast<int64>(sequence) * C::kTableCols + first_page;
  for (int i = threadIdx.x; first_page + i <= (end - 1) / C::kPageSize; i += C::kThreads) {
    pages[i] = table[i];
  }
  const int part = lane_index() / 4, column = lane_index() % 4;
  const E* queries =
      q + (static_cast<int64>(sequence) * C::kHeads + kv_head * kGroup + first_head) * C::kDim;
  uint32 query[kTiles][ShareK::kWords];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int head = n * 8 + part;
    if (first_head + head < kGroup) {
      ShareK::load(queries + head * C::kDim, column, query[n]);
    } else {
#pragma unroll
      for (int w = 0; w < ShareK::kWords; ++w) query[n][w] = 0;
    }
  }
  __syncthreads();

  // Row of a key; keys past the end give the last one, whose score is masked.
  const auto row = [&](int key) {
    key = ::min(key, end - 1);
    return (static_cast<int64>(pages[key / C::kPageSize - first_page]) * C::kPageSize +
            key % C::kPageSize) *
               C::kKvHeads +
           kv_head;
  };
  DecodeState<C> state;
  state.clear();
  uint32 key_words[2][ShareK::kWords];
  int tile = begin + warp_index() * 16;
  if (tile < end) {
    ShareK::load(k + row(tile + part) * C::kDim, column, key_words[0]);
    ShareK::load(k + row(tile + part + 8) * C::kDim, column, key_words[1]);
  }
  for (; tile < end; tile += kStep) {
    uint32 values[4][ShareV::kWords];  // keys 2 * column, the next, and both + 8
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ShareV::load(v + row(tile + 2 * column + i % 2 + i / 2 * 8) * C::kDimV, part, values[i]);
    }
    float s[kTiles][4] = {};
#pragma unroll
    for (int w = 0; w < ShareK::kWords; w += 2) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        mma_16x8x16<E>(s[n], key_words[0][w], key_words[1][w], key_words[0][w + 1],
                       key_words[1][w + 1], query[n][w], query[n][w + 1]);
      }
    }
    if (tile + kStep < end) {  // the next tile's keys are on their way during the rest
      ShareK::load(k + row(tile + kStep + part) * C::kDim, column, key_words[0]);
      ShareK::load(k + row(tile + kStep + part + 8) * C::kDim, column, key_words[1]);
    }
    uint2 p[kTiles];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[n][j] = tile + part + j / 2 * 8 < end ? score<C>(s[n][j]) : minus_infinity();
      }
      p[n] = state.softmax(n, s[n]);
    }
#pragma unroll
    for (int w = 0; w < ShareV::kWords; ++w) {
      const uint32 a0 = __byte_perm(values[0][w], values[1][w], 0x5410);
      const uint32 a1 = __byte_perm(values[0][w], values[1][w], 0x7632);
      const uint32 a2 = __byte_perm(values[2][w], values[3][w], 0x5410);
      const uint32 a3 = __byte_perm(values[2][w], values[3][w], 0x7632);
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        mma_16x8x16<E>(state.o[n][w], a0, a1, a2, a3, p[n].x, p[n].y);
    }
  }
  merge_warps<C>(state, output, softmax);

  const int heads = ::min(kGroup - first_head, kBlockHeads);
  const int64 out_row = static_cast<int64>(sequence) * C::kHeads + kv_head * kGroup + first_head;
  if (splits == 1) {
    for (int i = threadIdx.x; i < heads * C::kDimV; i += C::kThreads) {
      const int h = i / C::kDimV, d = i % C::kDimV;
      const float scale =
          final_scale<C>(softmax[h].x, softmax[h].y, sinks, kv_head * kGroup + first_head + h);
      out[(out_row + h) * C::kDimV + d] = from_float<E>(output[h][d] * scale);
    }
    return;
  }

  // Hand the split over; the last block merges.
  const int unit = sequence * (C::kKvHeads * C::kPasses) + blockIdx.y;
  float2* pairs =
      reinterpret_cast<float2*>(partial + static_cast<int64>(S) * C::kKvHeads * C::kPasses *
                                              gridDim.x * kBlockHeads * C::kDimV);
  const int64 slot = static_cast<int64>(unit) * gridDim.x;
  for (int i = threadIdx.x; i < heads * C::kDimV; i += C::kThreads) {
    partial[(slot + split) * kBlockHeads * C::kDimV + i] = output[i / C::kDimV][i % C::kDimV];
  }
  if (threadIdx.x < heads) pairs[(slot + split) * kBlockHeads + threadIdx.x] = softmax[threadIdx.x];
  if (!arrives_last(&arrivals<C::kMaxCounters>[unit], splits)) return;

  __shared__ float weights[kBlockHeads][C::kMaxSplits];
  for (int h = warp_index(); h < heads; h += C::kThreads / 32) {
    float top = minus_infinity(), total = 0;
    for (int i = lane_index(); i < splits; i += 32) {
      top = ::fmaxf(top, __ldcg(&pairs[(slot + i) * kBlockHeads + h]).x);
    }
    top = warp_max(top);
    for (int i = lane_index(); i < splits; i += 32) {
      const float2 pair = __ldcg(&pairs[(slot + i) * kBlockHeads + h]);
      const float weight = exp2_from(pair.x, top);
      total += pair.y * weight;
      weights[h][i] = weight;
    }
    const float scale =
        final_scale<C>(top, warp_sum(total), sinks, kv_head * kGroup + first_head + h);
    for (int i = lane_index(); i < splits; i += 32) weights[h][i] *= scale;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < heads * C::kDimV; i += C::kThreads) {
    float result = 0;
#pragma unroll 8
    for (int j = 0; j < splits; ++j) {
      result +=
          weights[i / C::kDimV][j] * __ldcg(&partial[(slot + j) * kBlockHeads * C::kDimV + i]);
    }
    out[out_row * C::kDimV + i] = from_float<E>(result);
  }
}

}  // namespace shunt
