// sample: logits to ids. A block a row, no sort.
//
// With ids in order of (logit descending, id ascending): keep the first top_k; of these the
// shortest prefix whose probability reaches top_p; of these, in ascending order of id, the first
// whose cumulative probability exceeds u.
//
// A prefix of that order is a threshold key and a number of ties: all keys above the threshold, and
// the first `ties` ids with the threshold itself. Both thresholds come from radix selection on
// integers in the order of the logits (digits of 11, 11 and 10 bits, a histogram each): by count
// for top_k, by probability for top_p. Probabilities are fixed-point integers, exp((logit - max) /
// temperature) in units of 2^-40, so that sums do not depend on the order of additions and all
// passes agree.
//
// Config: kVocab, kThreads (1024).
#pragma once

#include "common/common.cuh"
#include "common/paged.cuh"

namespace shunt {

namespace sampling {

inline constexpr int kBins = 2048;

__device__ __forceinline__ uint32 key_of(float x) {
  const uint32 bits = __float_as_uint(x + 0.0f);  // -0 and +0 are one
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(uint32 key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

/// Everything a row's passes share.
struct Row {
  const float* logits;
  float top;          // the largest logit
  float temperature;  // > 0

  /// exp((logit - top) / temperature) in units of 2^-40; 0 for what is not a number.
  __device__ __forceinline__ uint64 mass(float logit) const {
    const float p = ::expf((logit - top) / temperature);
    return p > 0 ? __float2ull_rn(::fminf(p, 1.0f) * 0x1p40f) : 0;
  }
};

/// The prefix: keys above `key`, and the first `ties` ids whose key it is.
struct Cut {
  uint32 key;
  int ties;
};

struct Smem {
  uint32 low[kBins], high[kBins];  // a histogram of 64-bit sums; counts use `low`
  uint64 warp_sums[32];
  int warp_ties[32];
  uint64 rest;
  uint32 key;
};

template <int kThreads>
__device__ __forceinline__ uint64 block_sum_u64(uint64 x, uint64* scratch) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  __syncthreads();
  if (lane_index() == 0) scratch[warp_index()] = x;
  __syncthreads();
  uint64 total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) total += scratch[i];
  return total;
}

template <int kThreads>
__device__ __forceinline__ uint64 block_max_u64(uint64 x, uint64* scratch) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const uint64 other = __shfl_xor_sync(kFullWarp, x, step);
    x = other > x ? other : x;
  }
  if (lane_index() == 0) scratch[warp_index()] = x;
  __syncthreads();
  uint64 best = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) best = scratch[i] > best ? scratch[i] : best;
  return best;
}

/// histogram[bin] += amount, exactly: the carry out of the low half goes to the high half.
__device__ __forceinline__ void add_to_bin(Smem& smem, int bin, uint64 amount) {
  const uint32 low = static_cast<uint32>(amount);
  const uint32 old = atomicAdd(&smem.low[bin], low);
  const uint32 high = static_cast<uint32>(amount >> 32) + (old + low < old ? 1u : 0u);
  if (high != 0) atomicAdd(&smem.high[bin], high);
}

/// By warp 0: the highest bin at which the sum from the top reaches `wanted`; `*above` is the sum
/// over the bins above.
__device__ __forceinline__ int find_bin(const Smem& smem, int bins, uint64 wanted, uint64* above) {
  const int lane = lane_index();
  uint64 before = 0;  // sum of the bins above those of this round
  for (int top = bins - 32; top >= 0; top -= 32) {
    const int bin = top + 31 - lane;
    const uint64 mine = smem.low[bin] + (static_cast<uint64>(smem.high[bin]) << 32);
    uint64 upto = mine;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint64 other = __shfl_up_sync(kFullWarp, upto, step);
      if (lane >= step) upto += other;
    }
    const unsigned int reached = __ballot_sync(kFullWarp, before + upto >= wanted);
    if (reached != 0) {
      const int lane_found = __ffs(reached) - 1;
      *above = __shfl_sync(kFullWarp, before + upto - mine, lane_found);
      return top + 31 - lane_found;
    }
    before += __shfl_sync(kFullWarp, upto, 31);
  }
  *above = before;
  return 0;  // unreachable: `wanted` is at most the total
}

/// The key at which the sum of `weigh` over keys, from the largest down, reaches `wanted` (1 <=
/// wanted <= total).
/// `*rest` is what is wanted of the ids with that key. weigh(key, id) -> amount; `extra` more are
/// added to `extra_key`.
template <class C, class Weigh>
__device__ __forceinline__ uint32 select_key(const Row& row, Smem& smem, uint64 wanted,
                                             uint64* rest, uint32 extra_key, uint64 extra,
                                             Weigh&& weigh) {
  uint32 prefix = 0, known = 0;  // `known`: the mask of bits decided so far
  for (int shift = 21; shift >= 0; shift -= shift == 21 ? 11 : 10) {
    const int bins = shift == 0 ? 1024 : kBins;
    __syncthreads();
    for (int i = threadIdx.x; i < bins; i += C::kThreads) smem.low[i] = smem.high[i] = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < C::kVocab; id += C::kThreads) {
      const uint32 key = key_of(row.logits[id]);
      if ((key & known) != prefix) continue;
      const uint64 amount = weigh(key, row.logits[id]);
      if (amount != 0) add_to_bin(smem, key >> shift & (bins - 1), amount);
    }
    if (threadIdx.x == 0 && extra != 0 && (extra_key & known) == prefix) {
      add_to_bin(smem, extra_key >> shift & (bins - 1), extra);
    }
    __syncthreads();
    if (warp_index() == 0) {
      uint64 above = 0;
      const int bin = find_bin(smem, bins, wanted, &above);
      if (lane_index() == 0) {
        smem.key = prefix | static_cast<uint32>(bin) << shift;
        smem.rest = wanted - above;
      }
    }
    __syncthreads();
    prefix = smem.key;
    wanted = smem.rest;
    known |= static_cast<uint32>(bins - 1) << shift;
    if (shift == 0) break;
  }
  *rest = wanted;
  return prefix;
}

/// The sum of masses above the cut over ids [begin, end), and the number of ids at it: a warp each.
__device__ __forceinline__ void warp_part(const Row& row, const Cut& cut, int begin, int end,
                                          uint64* mass, int* ties) {
  uint64 sum = 0;
  int count = 0;
  for (int id = begin + lane_index(); id < end; id += 32) {
    const float logit = row.logits[id];
    const uint32 key = key_of(logit);
    if (key > cut.key) sum += row.mass(logit);
    count += key == cut.key;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    sum += __shfl_xor_sync(kFullWarp, sum, step);
    count += __shfl_xor_sync(kFullWarp, count, step);
  }
  *mass = sum;
  *ties = count;
}

/// Narrows [*begin, *end) to the part, of one a warp, in which the cumulative mass passes `target`.
/// `*mass` and `*ties` are those of all ids before the range, and stay so.
template <class C>
__device__ __forceinline__ void narrow(const Row& row, const Cut& cut, Smem& smem, uint64 target,
                                       int* begin, int* end, uint64* mass, int* ties) {
  constexpr int kWarps = C::kThreads / 32;
  const int each = ceil_div(*end - *begin, kWarps);
  const auto part_begin = [&](int w) { return ::min(*begin + w * each, *end); };
  uint64 part_mass;
  int part_ties;
  warp_part(row, cut, part_begin(warp_index()), part_begin(warp_index() + 1), &part_mass,
            &part_ties);
  __syncthreads();
  if (lane_index() == 0) {
    smem.warp_sums[warp_index()] = part_mass;
    smem.warp_ties[warp_index()] = part_ties;
  }
  __syncthreads();
  const uint64 tie_mass = row.mass(logit_of(cut.key));
  int w = 0;
  for (; w < kWarps - 1; ++w) {  // every thread comes to the same answer
    const int kept = ::min(*ties + smem.warp_ties[w], cut.ties);
    const uint64 upto = *mass + smem.warp_sums[w] + tie_mass * kept;
    if (upto > target) break;
    *mass += smem.warp_sums[w];
    *ties += smem.warp_ties[w];
  }
  const int from = part_begin(w), to = part_begin(w + 1);
  *begin = from;
  *end = to;
}

/// By one warp: the first id of [begin, end) at which the cumulative mass exceeds `target`; -1 if
/// none.
__device__ __forceinline__ int walk(const Row& row, const Cut& cut, uint64 target, int begin,
                                    int end, uint64 mass, int ties) {
  const int lane = lane_index();
  const uint64 tie_mass = row.mass(logit_of(cut.key));
  for (int base = begin; base < end; base += 32) {
    const int id = base + lane;
    const float logit = id < end ? row.logits[id] : 0.0f;
    const uint32 key = key_of(logit);
    const bool tie = id < end && key == cut.key;
    const unsigned int tied = __ballot_sync(kFullWarp, tie);
    const int kept = ::min(ties + __popc(tied & (0xffffffffu >> (31 - lane))), cut.ties);
    uint64 upto = id < end && key > cut.key ? row.mass(logit) : 0;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint64 other = __shfl_up_sync(kFullWarp, upto, step);
      if (lane >= step) upto += other;
    }
    const unsigned int passed =
        __ballot_sync(kFullWarp, id < end && mass + upto + tie_mass * kept > target);
    if (passed != 0) return base + __ffs(passed) - 1;
    mass += __shfl_sync(kFullWarp, upto, 31);
    ties += __popc(tied);
  }
  return -1;
}

}  // namespace sampling

template <class C>
__device__ __forceinline__ void sample(const float* logits, const float* temperature,
                                       const int* top_k, const float* top_p, const float* uniform,
                                       int* ids, int R, const int* true_R) {
  using namespace sampling;
  __shared__ Smem smem;
  wait_for_predecessor();
  launch_dependents();
  const int r = blockIdx.x;
  if (r >= true_size(true_R, R)) return;
  Row row{logits + static_cast<int64>(r) * C::kVocab, 0, temperature[r]};

  // Argmax: the key, and below it the id upside down, so that the lowest id wins.
  uint64 best = 0;
#pragma unroll 4
  for (int id = threadIdx.x; id < C::kVocab; id += C::kThreads) {
    const uint64 candidate = static_cast<uint64>(key_of(row.logits[id])) << 32 | (0xffffffffu - id);
    best = candidate > best ? candidate : best;
  }
  best = block_max_u64<C::kThreads>(best, smem.warp_sums);
  const int best_id = static_cast<int>(0xffffffffu - static_cast<uint32>(best));
  if (!(row.temperature > 0)) {
    if (threadIdx.x == 0) ids[r] = best_id;
    return;
  }
  row.top = logit_of(static_cast<uint32>(best >> 32));

  Cut cut{0, 0};  // all: no logit's key is 0
  const int k = top_k[r];
  if (k > 0 && k < C::kVocab) {
    uint64 rest = 0;
    cut.key = select_key<C>(row, smem, k, &rest, 0, 0, [](uint32, float) { return uint64{1}; });
    cut.ties = static_cast<int>(rest);
  }
  uint64 mass = 0;
  for (int id = threadIdx.x; id < C::kVocab; id += C::kThreads) {
    if (key_of(row.logits[id]) > cut.key) mass += row.mass(row.logits[id]);
  }
  const uint64 tied = cut.ties > 0 ? row.mass(logit_of(cut.key)) * cut.ties : 0;
  uint64 total = block_sum_u64<C::kThreads>(mass, smem.warp_sums) + tied;
  if (total == 0) {  // not numbers
    if (threadIdx.x == 0) ids[r] = best_id;
    return;
  }
  const double share = top_p[r];
  if (share < 1) {
    const double wanted = ::ceil(share * static_cast<double>(total));
    const uint64 at_least = wanted > 1 ? ::min(static_cast<uint64>(wanted), total) : 1;
    uint64 rest = 0;
    const uint32 key =
        select_key<C>(row, smem, at_least, &rest, cut.key, tied,
                      [&](uint32 key, float logit) { return key > cut.key ? row.mass(logit) : 0; });
    const uint64 each = row.mass(logit_of(key));
    const int ties = static_cast<int>((rest + each - 1) / each);
    total = at_least - rest + each * ties;
    cut = {key, ties};
  }

  const uint64 target =
      static_cast<uint64>(static_cast<double>(uniform[r]) * static_cast<double>(total));
  int begin = 0, end = C::kVocab, ties = 0;
  mass = 0;
  narrow<C>(row, cut, smem, target, &begin, &end, &mass, &ties);
  narrow<C>(row, cut, smem, target, &begin, &end, &mass, &ties);
  if (warp_index() == 0) {
    const int id = walk(row, cut, target, begin, end, mass, ties);
    if (lane_index() == 0) ids[r] = id >= 0 ? id : best_id;
  }
}

}  // namespace shunt
