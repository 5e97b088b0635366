// causal_conv: a depthwise convolution over the tokens of each sequence, whose last kTaps - 1
// inputs wait in a slot state. A prefill is two kernels, since tokens in parallel read the state
// before it changes: causal_conv, then causal_conv_state. In decode the first does both.
#pragma once

#include "common/common.cuh"
#include "common/paged.cuh"

namespace shunt {

/// A sequence in a step: its tokens in the batch, and its row [kTaps - 1, kChannels] of the state.
template <class State>
struct SlotSequence {
  int first, tokens;
  State* row;
  bool fresh;  // it begins in this step: the row counts as zero
};

template <class C>
__device__ __forceinline__ SlotSequence<typename C::State> slot_sequence(int sequence,
                                                                         const int* positions,
                                                                         const int* seq_starts,
                                                                         const int* state_slots,
                                                                         typename C::State* state) {
  SlotSequence<typename C::State> s{seq_starts[sequence], 0, nullptr, false};
  s.tokens = seq_starts[sequence + 1] - s.first;
  if (s.tokens == 0) return s;  // the slot of a padded sequence is nobody's business
  s.row = state + static_cast<int64>(state_slots[sequence]) * ((C::kTaps - 1) * C::kChannels);
  s.fresh = positions[s.first] == 0;
  return s;
}

/// kVec channels of input i of a sequence, counted from its first token in this step; below 0 it
/// comes from the state.
template <class C>
__device__ __forceinline__ Vec<float, C::kVec> conv_input(const typename C::X* x,
                                                          const SlotSequence<typename C::State>& s,
                                                          int i, int channel) {
  if (i >= 0) {
    return to_float(load<C::kVec>(x + static_cast<int64>(s.first + i) * C::kChannels + channel));
  }
  if (s.fresh) return zero_vec<float, C::kVec>();
  return to_float(load<C::kVec>(s.row + (C::kTaps - 1 + i) * C::kChannels + channel));
}

/// The row after the step. Upwards: line j takes line j + tokens, which is not yet overwritten.
template <class C>
__device__ __forceinline__ void update_inputs(const typename C::X* x,
                                              const SlotSequence<typename C::State>& s,
                                              int channel) {
  for (int j = 0; j < C::kTaps - 1; ++j) {
    const auto input = conv_input<C>(x, s, j + s.tokens - (C::kTaps - 1), channel);
    store(s.row + j * C::kChannels + channel, from_float<typename C::State>(input));
  }
}

/// sum += w * input, where w holds kTaps weights of each of kVec channels.
template <class C>
__device__ __forceinline__ void convolve(const typename C::X* x, const typename C::W* w,
                                         const SlotSequence<typename C::State>& s, int first,
                                         int channel, Vec<float, C::kVec>& sum) {
  const typename C::W* own = w + channel * C::kTaps;
  if constexpr (C::kVec * C::kTaps <= 64) {
    // The weights lie side by side: whole vectors at once.
    Vec<typename C::W, C::kVec> weights[C::kTaps];
#pragma unroll
    for (int i = 0; i < C::kTaps; ++i) weights[i] = load<C::kVec>(own + i * C::kVec);
#pragma unroll
    for (int j = 0; j < C::kTaps; ++j) {
      const Vec<float, C::kVec> input = conv_input<C>(x, s, first + j, channel);
#pragma unroll
      for (int i = 0; i < C::kVec; ++i) {
        const int at = i * C::kTaps + j;
        sum[i] += to_float(weights[at / C::kVec][at % C::kVec]) * input[i];
      }
    }
  } else {
    for (int j = 0; j < C::kTaps; ++j) {
      const Vec<float, C::kVec> input = conv_input<C>(x, s, first + j, channel);
#pragma unroll
      for (int i = 0; i < C::kVec; ++i) sum[i] += to_float(own[i * C::kTaps + j]) * input[i];
    }
  }
}

/// out[T, kChannels] = apply(sum over j of w[:, j] * input[t - (kTaps - 1) + j] + bias). A block a
/// token (or, of a decode, a sequence) and a chunk of channels, a thread a vector of them.
/// Config: X, W, B, State, kChannels, kTaps, kVec, kThreads, kBias, kDecode, static float
/// apply(float acc).
template <class C>
__device__ __forceinline__ void causal_conv(const typename C::X* x, const typename C::W* w,
                                            const typename C::B* bias, const int* positions,
                                            const int* seq_starts, const int* state_slots,
                                            typename C::State* state, typename C::X* out, int T,
                                            const int* true_T, int S, const int* true_S) {
  wait_for_predecessor();
  launch_dependents();
  const int token = blockIdx.x;
  const int channel = (blockIdx.y * C::kThreads + threadIdx.x) * C::kVec;
  if (token >= true_size(true_T, T) || channel >= C::kChannels) return;
  const int sequence = C::kDecode ? token : find_sequence(seq_starts, true_size(true_S, S), token);
  const auto s = slot_sequence<C>(sequence, positions, seq_starts, state_slots, state);
  const int index = token - s.first;
  if (index >= s.tokens) return;  // behind the last sequence
  Vec<float, C::kVec> sum = zero_vec<float, C::kVec>();
  if constexpr (C::kBias) sum = to_float(load<C::kVec>(bias + channel));
  convolve<C>(x, w, s, index - (C::kTaps - 1), channel, sum);
#pragma unroll
  for (int i = 0; i < C::kVec; ++i) sum[i] = C::apply(sum[i]);
  store(out + static_cast<int64>(token) * C::kChannels + channel, from_float<typename C::X>(sum));
  if constexpr (C::kDecode) update_inputs<C>(x, s, channel);
}

/// The state after causal_conv. A block a sequence and a chunk of channels. Config: X, State,
/// kChannels, kTaps, kVec, kThreads.
template <class C>
__device__ __forceinline__ void causal_conv_state(const typename C::X* x, const int* positions,
                                                  const int* seq_starts, const int* state_slots,
                                                  typename C::State* state) {
  wait_for_predecessor();
  launch_dependents();
  const int channel = (blockIdx.y * C::kThreads + threadIdx.x) * C::kVec;
  const auto s = slot_sequence<C>(blockIdx.x, positions, seq_starts, state_slots, state);
  if (s.tokens > 0 && channel < C::kChannels) update_inputs<C>(x, s, channel);
}

}  // namespace shunt
