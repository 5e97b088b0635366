// Host kernels causal_conv and gated_delta_rule: a task is a part of one sequence (a block of
// channels, a head) over all its tokens, since each token needs the one before it. Test:
// tests/runtime/host/recurrent_test.cpp.
#include <cmath>
#include <cstring>

#include "runtime/host/kernels/args.h"

namespace shunt::host {
namespace {

/// The sequences of a step, and where the rows of a slot state lie.
struct SlotStates {
  const int32_t* positions;    // [T]
  const int32_t* seq_starts;   // [S + 1]
  const int32_t* state_slots;  // [S]
  float* state;                // [slots, row...]

  int64_t begin(int64_t s) const { return seq_starts[s]; }
  int64_t tokens(int64_t s) const { return seq_starts[s + 1] - seq_starts[s]; }
  /// A sequence that begins in this step does not see what its row holds.
  bool fresh(int64_t s) const { return positions[seq_starts[s]] == 0; }
  float* row(int64_t s, int64_t width) const { return state + state_slots[s] * width; }

  /// On the calling thread, so that workers only look things up.
  void check(int64_t sequences) const {
    for (int64_t s = 0; s < sequences; ++s) {
      SHUNT_CHECK(tokens(s) >= 0 && (tokens(s) == 0 || state_slots[s] >= 0),
                  "sequence {} has {} tokens and state slot {}", s, tokens(s), state_slots[s]);
    }
  }
};

SlotStates read_slots(Args& args) {
  SlotStates s;
  s.positions = args.ints();
  s.seq_starts = args.ints();
  s.state_slots = args.ints();
  s.state = args.pointer<float>();
  return s;
}

struct CausalConv {
  const float* x;  // [T, channels]
  Weight weight;   // [channels, taps]
  Weight bias;     // [channels] or none
  SlotStates slots;
  int64_t sequences, channels, taps;
  const HostExpr* epilogue;  // or nullptr
  float* out;                // [T, channels]

  static constexpr int64_t kBlock = HostExpr::kBlock;  // channels of a task
  size_t scratch_floats() const { return static_cast<size_t>((taps + 2) * kBlock + taps); }

  /// Channels [c, c + n) of sequence s; `w` has room for scratch_floats().
  void run(int64_t s, int64_t c, int64_t n, float* w) const {
    float* offset = w + taps * kBlock;
    float* sum = offset + kBlock;
    load_weights(c, n, w, sum + kBlock);
    std::fill_n(offset, n, 0.0f);
    if (bias) std::memcpy(offset, bias.floats(c, n, sum), static_cast<size_t>(n) * sizeof(float));
    const int64_t begin = slots.begin(s), tokens = slots.tokens(s), past = taps - 1;
    float* row = slots.row(s, past * channels) + c;
    if (slots.fresh(s)) {
      for (int64_t j = 0; j < past; ++j) std::fill_n(row + j * channels, n, 0.0f);
    }
    // Input i - past of the sequence's tokens in this step; before the first one, of the state.
    const auto input = [&](int64_t i) {
      return i < past ? row + i * channels : x + (begin + i - past) * channels + c;
    };
    for (int64_t t = 0; t < tokens; ++t) {
      std::memcpy(sum, offset, static_cast<size_t>(n) * sizeof(float));
      for (int64_t j = 0; j < taps; ++j) {
        const float *in = input(t + j), *scale = w + j * kBlock;
        for (int64_t k = 0; k < n; ++k) sum[k] += scale[k] * in[k];
      }
      float* to = out + (begin + t) * channels + c;
      if (epilogue == nullptr) {
        std::memcpy(to, sum, static_cast<size_t>(n) * sizeof(float));
      } else {
        const float* inputs[HostExpr::kPlaces] = {sum};
        epilogue->evaluate(inputs, static_cast<int>(n), to);
      }
    }
    // Upwards: row j takes row j + tokens, which is not yet overwritten.
    for (int64_t j = 0; j < past; ++j)
      std::memmove(row + j * channels, input(j + tokens), static_cast<size_t>(n) * sizeof(float));
  }

 private:
  /// w[j][k] = tap j of channel c + k.
  void load_weights(int64_t c, int64_t n, float* w, float* buffer) const {
    for (int64_t k = 0; k < n; ++k) {
      const float* own = weight.floats((c + k) * taps, taps, buffer);
      for (int64_t j = 0; j < taps; ++j) w[j * kBlock + k] = own[j];
    }
  }
};

struct DeltaRule {
  const float* qkv;   // [T, 2 * key_heads * d + heads * dv]
  const float* g;     // [T, heads]
  const float* beta;  // [T, heads]
  SlotStates slots;   // rows [heads, d, dv]
  int64_t sequences, key_heads, heads, d, dv;
  float scale;
  bool l2norm;
  float eps;
  float* out;  // [T, heads, dv]

  /// One head of sequence s; `scratch` has room for 2 * d + dv floats.
  void run(int64_t s, int64_t head, float* scratch) const {
    float *q = scratch, *k = scratch + d, *delta = scratch + 2 * d;
    float* state = slots.row(s, heads * d * dv) + head * d * dv;
    if (slots.fresh(s)) std::fill_n(state, d * dv, 0.0f);
    const int64_t width = 2 * key_heads * d + heads * dv;
    const int64_t key_head = head / (heads / key_heads), keys = key_heads * d;
    for (int64_t t = slots.begin(s); t < slots.begin(s) + slots.tokens(s); ++t) {
      const float* row = qkv + t * width;
      key_vector(q, row + key_head * d, scale);
      key_vector(k, row + keys + key_head * d, 1);
      step(state, q, k, row + 2 * keys + head * dv, delta, std::exp(g[t * heads + head]),
           beta[t * heads + head], out + (t * heads + head) * dv);
    }
  }

 private:
  void key_vector(float* to, const float* x, float factor) const {
    if (l2norm) factor /= std::sqrt(simd().sum_squares(x, 0, d) + eps);
    for (int64_t i = 0; i < d; ++i) to[i] = x[i] * factor;
  }

  /// One token: the state forgets, learns what k should have recalled, and is asked for q.
  void step(float* state, const float* q, const float* k, const float* v, float* delta, float decay,
            float rate, float* result) const {
    std::fill_n(delta, dv, 0.0f);
    for (int64_t i = 0; i < d; ++i) {
      float* row = state + i * dv;
      for (int64_t c = 0; c < dv; ++c) {
        row[c] *= decay;
        delta[c] += k[i] * row[c];
      }
    }
    for (int64_t c = 0; c < dv; ++c) delta[c] = rate * (v[c] - delta[c]);
    std::fill_n(result, dv, 0.0f);
    for (int64_t i = 0; i < d; ++i) {
      float* row = state + i * dv;
      for (int64_t c = 0; c < dv; ++c) {
        row[c] += k[i] * delta[c];
        result[c] += q[i] * row[c];
      }
    }
  }
};

}  // namespace

void causal_conv(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  CausalConv c;
  c.x = args.floats();
  c.weight = read_weight(args);
  c.bias = read_weight(args);
  c.slots = read_slots(args);
  c.sequences = args.integer();
  c.channels = args.integer();
  c.taps = args.integer();
  c.epilogue = args.expr();
  c.out = args.pointer<float>();
  args.done();
  c.slots.check(c.sequences);
  const int64_t blocks = ceil_div(c.channels, CausalConv::kBlock);
  pool.parallel_for(c.sequences * blocks, [&](int64_t task, int worker) {
    const int64_t s = task / blocks, first = task % blocks * CausalConv::kBlock;
    if (c.slots.tokens(s) == 0) return;
    const int64_t n = std::min(CausalConv::kBlock, c.channels - first);
    c.run(s, first, n,
          static_cast<float*>(pool.scratch(worker, c.scratch_floats() * sizeof(float))));
  });
}

void gated_delta_rule(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  DeltaRule r;
  r.qkv = args.floats();
  r.g = args.floats();
  r.beta = args.floats();
  r.slots = read_slots(args);
  r.sequences = args.integer();
  r.key_heads = args.integer();
  r.heads = args.integer();
  r.d = args.integer();
  r.dv = args.integer();
  r.scale = args.real();
  r.l2norm = args.flag();
  r.eps = args.real();
  r.out = args.pointer<float>();
  args.done();
  r.slots.check(r.sequences);
  pool.parallel_for(r.sequences * r.heads, [&](int64_t task, int worker) {
    const int64_t s = task / r.heads;
    if (r.slots.tokens(s) == 0) return;
    const auto floats = static_cast<size_t>(2 * r.d + r.dv);
    r.run(s, task % r.heads, static_cast<float*>(pool.scratch(worker, floats * sizeof(float))));
  });
}

}  // namespace shunt::host
