// eval_ of rope, kv_append, rope_append and attention. Tested by tests/ir/evaluator_test.cpp.
#include <algorithm>

#include "ir/reference/math.h"
#include "ir/reference/op_call.h"

namespace shunt::ir {

namespace {

/// Where the rows of each sequence are: in the batch, and in paged states.
struct Sequences {
  const OpCall& call;
  const Tensor& starts;
  const Tensor& tables;

  int64_t count() const { return tables.size(0); }
  int64_t begin(int64_t s) const { return starts.i[s]; }
  int64_t end(int64_t s) const { return starts.i[s + 1]; }
  void check(int64_t tokens) const {
    for (int64_t s = 0; s < count(); ++s) {
      if (begin(s) < 0 || end(s) < begin(s) || end(s) > tokens) {
        user_error("seq_starts {}, {} of sequence {} with {} tokens", begin(s), end(s), s, tokens);
      }
    }
  }
  /// Row of a state that holds `position` of sequence `s`.
  int64_t state_row(int64_t s, int64_t position) const {
    const int64_t block = position / call.page_size;
    if (position < 0 || block >= tables.last()) {
      user_error("position {} of sequence {} is outside its {} pages", position, s, tables.last());
    }
    const int32_t page = tables.i[s * tables.last() + block];
    if (page < 0 || page >= call.options.pages) {
      user_error("page {} of sequence {} is outside [0, {})", page, s, call.options.pages);
    }
    return page * call.page_size + position % call.page_size;
  }
};

/// Writes one token's row [heads, dim], rounded to the state's dtype.
void write_row(Tensor& state, int64_t row, const float* from) {
  const int64_t width = state.size(1) * state.size(2);
  for (int64_t c = 0; c < width; ++c)
    state.f[row * width + c] = round_to(state.type.dtype, from[c]);
}

}  // namespace

void rope_row(float* x, const Tensor& inv_freq, int32_t position, bool interleaved, double scale) {
  const int64_t half = inv_freq.elements();
  for (int64_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * inv_freq.f[i];
    const double cosine = std::cos(static_cast<double>(angle)) * scale;
    const double sine = std::sin(static_cast<double>(angle)) * scale;
    float& a = x[interleaved ? 2 * i : i];
    float& b = x[interleaved ? 2 * i + 1 : i + half];
    const double first = a * cosine - b * sine, second = b * cosine + a * sine;
    a = static_cast<float>(first);
    b = static_cast<float>(second);
  }
}

/// Elements past 2 * inv_freq of a head pass through.
void eval_rope(OpCall& call) {
  const auto& a = call.attrs<RopeAttrs>();
  Tensor& out = call.out();
  out.f = call.in(0).f;
  for (int64_t r = 0; r < out.rows(); ++r) {
    rope_row(out.row(r), call.in(2), call.in(1).i[r / out.size(1)], a.interleaved, a.scale);
  }
}

void eval_kv_append(OpCall& call) {
  const Tensor& k = call.in(0);
  const Tensor* v = call.find(1);
  const Sequences sequences{call, call.in(3), call.in(4)};
  sequences.check(k.size(0));
  for (int64_t s = 0; s < sequences.count(); ++s) {
    for (int64_t t = sequences.begin(s); t < sequences.end(s); ++t) {
      const int64_t row = sequences.state_row(s, call.in(2).i[t]);
      write_row(call.state(5), row, k.f.data() + t * k.size(1) * k.size(2));
      if (v == nullptr) continue;
      write_row(call.state(6), row, v->f.data() + t * v->size(1) * v->size(2));
    }
  }
}

namespace {

/// Norm and rotation of the q and k parts of one row of qkv, in place and unrounded.
void norm_and_rotate(OpCall& call, float* qkv, int32_t position) {
  const auto& a = call.attrs<RopeAppendAttrs>();
  for (int part = 0; part < 2; ++part) {
    const int64_t heads = part == 0 ? a.heads : a.kv_heads;
    float* x = qkv + (part == 0 ? 0 : a.heads * a.head_dim);
    const Tensor* weight = call.find(part == 0 ? 3 : 4);
    if (a.norm == HeadNorm::full) {
      rms_norm_row(x, weight->row(0), heads * a.head_dim, a.eps, a.plus_one, x);
    }
    for (int64_t h = 0; h < heads; ++h, x += a.head_dim) {
      if (a.norm == HeadNorm::head)
        rms_norm_row(x, weight->row(0), a.head_dim, a.eps, a.plus_one, x);
      if (call.find(2) != nullptr) rope_row(x, call.in(2), position, a.interleaved, a.scale);
    }
  }
}

}  // namespace

void eval_rope_append(OpCall& call) {
  const auto& a = call.attrs<RopeAppendAttrs>();
  const Sequences sequences{call, call.in(5), call.in(6)};
  std::vector<float> rows = call.in(0).f;
  const int64_t tokens = call.in(0).size(0), width = call.in(0).last();
  const int64_t q_width = a.heads * a.head_dim, kv_width = a.kv_heads * a.head_dim;
  sequences.check(tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    norm_and_rotate(call, rows.data() + t * width, call.in(1).i[t]);
    std::copy_n(rows.data() + t * width, q_width, call.out().f.data() + t * q_width);
  }
  for (int64_t s = 0; s < sequences.count(); ++s) {
    for (int64_t t = sequences.begin(s); t < sequences.end(s); ++t) {
      const int64_t row = sequences.state_row(s, call.in(1).i[t]);
      write_row(call.state(7), row, rows.data() + t * width + q_width);
      write_row(call.state(8), row, rows.data() + t * width + q_width + kv_width);
    }
  }
}

namespace {

/// One query head against the visible keys [first, last] of its sequence. Writes Dv elements.
void attend(OpCall& call, const Sequences& sequences, int64_t s, int64_t first, int64_t last,
            int64_t t, int64_t head, float* out) {
  const auto& a = call.attrs<AttentionAttrs>();
  const Tensor& q = call.in(0);
  const Tensor& k = call.in(4);
  const Tensor& v = call.find(5) != nullptr ? call.in(5) : k;  // else the start of k's rows
  const int64_t dv = call.out().last() / q.size(1);
  const int64_t heads = q.size(1), kv_heads = k.size(1), kv_head = head / (heads / kv_heads);
  std::vector<double> p;
  const Tensor* sinks = call.find(6);
  const Tensor* slopes = call.find(7);
  double top = sinks != nullptr ? sinks->f[head] : -INFINITY;
  for (int64_t j = first; j <= last; ++j) {
    const float* key = k.row(sequences.state_row(s, j) * kv_heads + kv_head);
    double score = dot(q.row(t * heads + head), key, q.last()) * a.scale;
    if (a.softcap > 0) score = a.softcap * std::tanh(score / a.softcap);
    if (slopes != nullptr) score += static_cast<double>(slopes->f[head]) * (j - last);
    p.push_back(score);
    top = std::max(top, score);
  }
  double sum = sinks != nullptr ? std::exp(sinks->f[head] - top)
                                : 0;  // a sink takes weight and adds no value
  for (double& x : p) sum += x = std::exp(x - top);
  std::vector<double> mixed(static_cast<size_t>(dv), 0.0);
  for (int64_t j = first; j <= last; ++j) {
    const float* value = v.row(sequences.state_row(s, j) * kv_heads + kv_head);
    for (int64_t c = 0; c < dv; ++c) mixed[c] += p[j - first] / sum * value[c];
  }
  std::copy(mixed.begin(), mixed.end(), out);
}

}  // namespace

/// Token t of sequence s stands at kv_lens[s] - (tokens of s) + its index, and sees keys up to
/// itself.
void eval_attention(OpCall& call) {
  const auto& a = call.attrs<AttentionAttrs>();
  const int64_t heads = call.in(0).size(1), dv = call.out().last() / heads;
  const Sequences sequences{call, call.in(1), call.in(3)};
  sequences.check(call.in(0).size(0));
  for (int64_t s = 0; s < sequences.count(); ++s) {
    const int64_t past = call.in(2).i[s] - (sequences.end(s) - sequences.begin(s));
    if (past < 0)
      user_error("kv_lens {} of sequence {} is less than its tokens", call.in(2).i[s], s);
    for (int64_t t = sequences.begin(s); t < sequences.end(s); ++t) {
      const int64_t last = past + t - sequences.begin(s);
      int64_t first = a.window > 0 ? std::max<int64_t>(0, last - a.window + 1) : 0;
      if (a.chunk > 0) first = std::max(first, last / a.chunk * a.chunk);
      for (int64_t h = 0; h < heads; ++h) {
        attend(call, sequences, s, first, last, t, h, call.out().f.data() + (t * heads + h) * dv);
      }
    }
  }
}

void eval_encoder_attention(OpCall& call) {
  const double scale = call.attrs<EncoderAttentionAttrs>().scale;
  const Tensor &q = call.in(0), &k = call.in(1), &v = call.in(2), &starts = call.in(3);
  const int64_t heads = q.size(1), kv_heads = k.size(1), d = q.last(), dv = v.last();
  std::vector<double> p, mixed;
  for (int64_t s = 0; s + 1 < starts.elements(); ++s) {
    const int64_t begin = starts.i[s], end = starts.i[s + 1];
    if (begin < 0 || end < begin || end > q.size(0)) {
      user_error("seq_starts {}, {} of sequence {} with {} tokens", begin, end, s, q.size(0));
    }
    for (int64_t row = begin * heads; row < end * heads; ++row) {
      const int64_t kv_head = row % heads / (heads / kv_heads);
      p.clear();
      double top = -INFINITY, sum = 0;
      for (int64_t j = begin; j < end; ++j) {
        p.push_back(dot(q.row(row), k.row(j * kv_heads + kv_head), d) * scale);
        top = std::max(top, p.back());
      }
      for (double& x : p) sum += x = std::exp(x - top);
      mixed.assign(static_cast<size_t>(dv), 0.0);
      for (int64_t j = begin; j < end; ++j) {
        const float* value = v.row(j * kv_heads + kv_head);
        for (int64_t c = 0; c < dv; ++c) mixed[c] += p[j - begin] / sum * value[c];
      }
      std::copy(mixed.begin(), mixed.end(), call.out().f.data() + row * dv);
    }
  }
}

}  // namespace shunt::ir
