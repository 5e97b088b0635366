// eval_ of causal_conv and gated_delta_rule: token by token, from and to a sequence's row of the
// slot state. Tested by tests/ir/recurrent_test.cpp.
#include <algorithm>
#include <cmath>

#include "ir/expr.h"
#include "ir/reference/math.h"
#include "ir/reference/op_call.h"

namespace shunt::ir {

namespace {

/// Calls f(begin, end, row, fresh) for every sequence that has tokens: its tokens, its row of
/// `state`, and whether that counts as zero.
template <class F>
void for_sequences(OpCall& call, Tensor& state, F&& f) {
  const Tensor &positions = call.in(3), &starts = call.in(4), &slots = call.in(5);
  const int64_t tokens = call.in(0).size(0), width = state.elements() / state.size(0);
  for (int64_t s = 0; s < slots.elements(); ++s) {
    const int64_t begin = starts.i[s], end = starts.i[s + 1];
    if (begin < 0 || end < begin || end > tokens) {
      user_error("seq_starts {}, {} of sequence {} with {} tokens", begin, end, s, tokens);
    }
    if (begin == end) continue;
    if (slots.i[s] < 0 || slots.i[s] >= state.size(0)) {
      user_error("state slot {} of sequence {} is outside [0, {})", slots.i[s], s, state.size(0));
    }
    f(begin, end, state.f.data() + slots.i[s] * width, positions.i[begin] == 0);
  }
}

void store_rounded(const Tensor& state, const std::vector<double>& values, float* row) {
  for (size_t i = 0; i < values.size(); ++i)
    row[i] = round_to(state.type.dtype, static_cast<float>(values[i]));
}

}  // namespace

void eval_causal_conv(OpCall& call) {
  const Tensor &x = call.in(0), &w = call.in(1);
  const Tensor* bias = call.find(2);
  Tensor& state = call.state(6);
  const int64_t channels = x.last(), taps = w.last();
  const std::string& text = call.attrs<CausalConvAttrs>().epilogue;
  const Expr epilogue = Expr::parse(text.empty() ? "acc" : text);
  for_sequences(call, state, [&](int64_t begin, int64_t end, float* row, bool fresh) {
    // Inputs of the sequence, those of the state first.
    std::vector<float> inputs(row, row + (taps - 1) * channels);
    if (fresh) std::fill(inputs.begin(), inputs.end(), 0.0f);
    inputs.insert(inputs.end(), x.row(begin), x.row(end));
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t c = 0; c < channels; ++c) {
        double sum = bias != nullptr ? bias->f[c] : 0;
        for (int64_t j = 0; j < taps; ++j)
          sum += static_cast<double>(w.row(c)[j]) * inputs[(t - begin + j) * channels + c];
        const float acc = static_cast<float>(sum);
        call.out().row(t)[c] = epilogue.evaluate({&acc, 1});
      }
    }
    for (int64_t i = 0; i < (taps - 1) * channels; ++i)
      row[i] = round_to(state.type.dtype, inputs[(end - begin) * channels + i]);
  });
}

namespace {

/// x * scale, or that after division by its length.
std::vector<double> key_vector(const float* x, int64_t n, const GatedDeltaRuleAttrs& a,
                               double scale) {
  if (a.qk_l2norm) scale /= std::sqrt(dot(x, x, n) + a.eps);
  std::vector<double> out(x, x + n);
  for (double& v : out) v *= scale;
  return out;
}

/// One token of one head: s [d, dv] is updated; writes dv elements.
void delta_step(std::vector<double>& s, const std::vector<double>& q, const std::vector<double>& k,
                const float* v, double decay, double beta, int64_t dv, float* out) {
  std::vector<double> known(static_cast<size_t>(dv)), result(static_cast<size_t>(dv));
  for (size_t i = 0; i < k.size(); ++i) {
    for (int64_t c = 0; c < dv; ++c) known[c] += k[i] * (s[i * dv + c] *= decay);
  }
  for (size_t i = 0; i < k.size(); ++i) {
    for (int64_t c = 0; c < dv; ++c)
      result[c] += q[i] * (s[i * dv + c] += k[i] * beta * (v[c] - known[c]));
  }
  std::copy(result.begin(), result.end(), out);
}

}  // namespace

void eval_gated_delta_rule(OpCall& call) {
  const auto& a = call.attrs<GatedDeltaRuleAttrs>();
  const Tensor &qkv = call.in(0), &g = call.in(1), &beta = call.in(2);
  Tensor& state = call.state(6);
  const int64_t heads = state.size(1), d = state.size(2), dv = state.size(3);
  const int64_t keys = a.key_heads * d;
  for_sequences(call, state, [&](int64_t begin, int64_t end, float* row, bool fresh) {
    for (int64_t h = 0; h < heads; ++h) {
      float* mine = row + h * d * dv;
      std::vector<double> s(mine, mine + d * dv);
      if (fresh) std::fill(s.begin(), s.end(), 0.0);
      const int64_t key_head = h / (heads / a.key_heads);
      for (int64_t t = begin; t < end; ++t) {
        const float* x = qkv.row(t);
        const auto q = key_vector(x + key_head * d, d, a, a.scale);
        const auto k = key_vector(x + keys + key_head * d, d, a, 1);
        delta_step(s, q, k, x + 2 * keys + h * dv, std::exp(static_cast<double>(g.row(t)[h])),
                   beta.row(t)[h], dv, call.out().f.data() + (t * heads + h) * dv);
      }
      store_rounded(state, s, mine);
    }
  });
}

}  // namespace shunt::ir
