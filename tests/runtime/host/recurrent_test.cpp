// causal_conv and gated_delta_rule against double-precision loops: unequal and empty sequences,
// fresh and continued states in scattered slots, states of others left alone.
#include "ir/error.h"
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

/// Sequences with 0 to `longest` tokens, each fresh or somewhere behind its start.
struct Batch {
  std::vector<int32_t> seq_starts{0}, positions, slots;
  int64_t sequences;

  Batch(int64_t n, int64_t longest, int64_t all_slots) : sequences(n) {
    std::vector<int32_t> order(static_cast<size_t>(all_slots));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    std::shuffle(order.begin(), order.end(), generator());
    slots.assign(order.begin(), order.begin() + n);
    for (int64_t s = 0; s < n; ++s) {
      const int64_t tokens = pick(0, longest), first = pick(0, 1) * pick(1, 100);
      for (int64_t i = 0; i < tokens; ++i) positions.push_back(static_cast<int32_t>(first + i));
      seq_starts.push_back(static_cast<int32_t>(positions.size()));
    }
  }
  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
  int64_t begin(int64_t s) const { return seq_starts[static_cast<size_t>(s)]; }
  int64_t end(int64_t s) const { return begin(s + 1); }
  int64_t slot(int64_t s) const { return slots[static_cast<size_t>(s)]; }
  bool fresh(int64_t s) const { return positions[static_cast<size_t>(begin(s))] == 0; }
};

void expect_all_near(const std::vector<float>& got, const std::vector<double>& want,
                     double tolerance, const char* what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) expect_near(got[i], want[i], tolerance, what);
}

TEST(HostCausalConv, RaggedBatches) {
  const HostExpr silu = HostExpr::compile("silu(acc)");
  for (int round = 0; round < 60; ++round) {
    const int64_t channels = round % 3 == 0 ? pick(250, 600) : pick(1, 40), taps = pick(2, 6);
    const int64_t past = taps - 1, all_slots = 7;
    const Batch batch(pick(1, 6), 9, all_slots);
    const std::vector<float> x = random_floats(batch.tokens() * channels);
    TestWeight w = TestWeight::random(channels * taps, pick_dtype());
    TestWeight bias = TestWeight::random(channels, pick_dtype());
    const bool has_bias = pick(0, 1) == 1, has_silu = pick(0, 1) == 1;
    std::vector<float> state = random_floats(all_slots * past * channels),
                       out = poisoned(batch.tokens() * channels);
    std::vector<double> wanted_state(state.begin(), state.end()), wanted(out.size());
    for (int64_t s = 0; s < batch.sequences; ++s) {
      if (batch.begin(s) == batch.end(s)) continue;
      const auto row = wanted_state.begin() + batch.slot(s) * past * channels;
      std::vector<double> inputs(row, row + past * channels);
      if (batch.fresh(s)) std::fill(inputs.begin(), inputs.end(), 0.0);
      inputs.insert(inputs.end(), x.begin() + batch.begin(s) * channels,
                    x.begin() + batch.end(s) * channels);
      for (int64_t t = batch.begin(s); t < batch.end(s); ++t) {
        for (int64_t c = 0; c < channels; ++c) {
          double sum = has_bias ? bias[c] : 0;
          for (int64_t j = 0; j < taps; ++j) {
            sum += w[c * taps + j] *
                   inputs[static_cast<size_t>((t - batch.begin(s) + j) * channels + c)];
          }
          wanted[static_cast<size_t>(t * channels + c)] =
              has_silu ? sum / (1 + std::exp(-sum)) : sum;
        }
      }
      std::copy(inputs.end() - past * channels, inputs.end(), row);
    }
    Call call;
    call.p(x).w(w);
    if (has_bias) {
      call.w(bias);
    } else {
      call.no_weight();
    }
    call.p(batch.positions).p(batch.seq_starts).p(batch.slots).p(state);
    call.i(batch.sequences).i(channels).i(taps).e(has_silu ? &silu : nullptr).p(out);
    call.run("causal_conv", pool());
    expect_all_near(out, wanted, 1e-5, "causal_conv");
    expect_all_near(state, wanted_state, 0, "its state");
  }
}

TEST(HostGatedDeltaRule, RaggedBatches) {
  for (int round = 0; round < 40; ++round) {
    const int64_t key_heads = pick(1, 3), heads = key_heads * pick(1, 3), d = pick(1, 40),
                  dv = pick(1, 40), all_slots = 6;
    const int64_t width = 2 * key_heads * d + heads * dv, row = heads * d * dv;
    const bool norm = pick(0, 1) == 1;
    const Batch batch(pick(1, 5), 12, all_slots);
    const std::vector<float> qkv = random_floats(batch.tokens() * width, norm ? 1.0f : 0.3f);
    std::vector<float> g = random_floats(batch.tokens() * heads),
                       beta = random_floats(batch.tokens() * heads);
    for (float& v : g) v = -std::fabs(v);
    for (float& v : beta) v = 1 / (1 + std::exp(-v));
    std::vector<float> state = random_floats(all_slots * row),
                       out = poisoned(batch.tokens() * heads * dv);
    std::vector<double> wanted_state(state.begin(), state.end()), wanted(out.size());
    const auto vector_at = [&](int64_t at, double scale) {
      std::vector<double> v(qkv.begin() + at, qkv.begin() + at + d);
      double squares = 0;
      for (double e : v) squares += e * e;
      for (double& e : v) e *= norm ? scale / std::sqrt(squares + 1e-6) : scale;
      return v;
    };
    for (int64_t s = 0; s < batch.sequences; ++s) {
      for (int64_t h = 0; h < heads && batch.begin(s) < batch.end(s); ++h) {
        double* m = wanted_state.data() + batch.slot(s) * row + h * d * dv;
        if (batch.fresh(s)) std::fill_n(m, d * dv, 0.0);
        for (int64_t t = batch.begin(s); t < batch.end(s); ++t) {
          const int64_t key = h / (heads / key_heads), at = t * width;
          const auto q = vector_at(at + key * d, 0.5), k = vector_at(at + (key_heads + key) * d, 1);
          const double decay = std::exp(static_cast<double>(g[static_cast<size_t>(t * heads + h)]));
          for (int64_t c = 0; c < dv; ++c) {
            double known = 0, result = 0;
            for (int64_t i = 0; i < d; ++i)
              known += k[static_cast<size_t>(i)] * (m[i * dv + c] *= decay);
            const double v = qkv[static_cast<size_t>(at + 2 * key_heads * d + h * dv + c)];
            const double delta = beta[static_cast<size_t>(t * heads + h)] * (v - known);
            for (int64_t i = 0; i < d; ++i) {
              m[i * dv + c] += k[static_cast<size_t>(i)] * delta;
              result += q[static_cast<size_t>(i)] * m[i * dv + c];
            }
            wanted[static_cast<size_t>((t * heads + h) * dv + c)] = result;
          }
        }
      }
    }
    Call()
        .p(qkv)
        .p(g)
        .p(beta)
        .p(batch.positions)
        .p(batch.seq_starts)
        .p(batch.slots)
        .p(state)
        .i(batch.sequences)
        .i(key_heads)
        .i(heads)
        .i(d)
        .i(dv)
        .f(0.5)
        .i(norm)
        .f(1e-6)
        .p(out)
        .run("gated_delta_rule", pool());
    expect_all_near(out, wanted, 1e-4, "gated_delta_rule");
    expect_all_near(state, wanted_state, 1e-4, "its state");
  }
}

TEST(HostRecurrent, ASlotBelowZeroIsRefused) {
  const std::vector<int32_t> starts = {0, 1}, positions = {0}, slots = {-1};
  const std::vector<float> x = {1, 2};
  TestWeight w = TestWeight::random(4, DType::f32);
  std::vector<float> state(2), out(2);
  Call call;
  call.p(x).w(w).no_weight().p(positions).p(starts).p(slots).p(state).i(1).i(2).i(2);
  call.e(nullptr).p(out);
  EXPECT_THROW(call.run("causal_conv", pool()), InternalError);
}

}  // namespace
}  // namespace shunt
