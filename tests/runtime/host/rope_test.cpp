// rope, kv_append and rope_append against double-precision loops, over several sequences in
// scattered pages.
#include "ir/error.h"
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

void rotate(std::vector<double>& x, int32_t position, const std::vector<float>& inv_freq,
            bool interleaved, double scale) {
  const size_t half = inv_freq.size();
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(static_cast<float>(position) * inv_freq[i]);
    const size_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
    const double xa = x[a], xb = x[b], c = std::cos(angle) * scale, s = std::sin(angle) * scale;
    x[a] = xa * c - xb * s;
    x[b] = xb * c + xa * s;
  }
}

/// Tokens of several sequences, each a run of positions.
struct Batch {
  std::vector<int32_t> seq_starts{0}, positions, sequence;
  int64_t sequences() const { return static_cast<int64_t>(seq_starts.size()) - 1; }
  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }

  Batch(int64_t sequences, int64_t longest, int64_t context) {
    for (int64_t s = 0; s < sequences; ++s) {
      const int64_t n = pick(0, longest), first = pick(0, context - longest);
      for (int64_t i = 0; i < n; ++i) {
        positions.push_back(static_cast<int32_t>(first + i));
        sequence.push_back(static_cast<int32_t>(s));
      }
      seq_starts.push_back(static_cast<int32_t>(positions.size()));
    }
  }
};

TEST(HostRope, PartialAndInterleaved) {
  for (int round = 0; round < 40; ++round) {
    const int64_t tokens = pick(0, 20), heads = pick(1, 4), d = 2 * pick(1, 20),
                  half = pick(1, d / 2);
    const bool interleaved = pick(0, 1) == 1;
    const std::vector<float> x = random_floats(tokens * heads * d);
    std::vector<float> inv_freq = random_floats(half), out = poisoned(tokens * heads * d);
    std::vector<int32_t> positions;
    for (int64_t t = 0; t < tokens; ++t) positions.push_back(static_cast<int32_t>(pick(0, 500)));
    Call()
        .p(x)
        .p(positions)
        .p(inv_freq)
        .i(tokens)
        .i(heads)
        .i(d)
        .i(half)
        .i(interleaved)
        .f(1.5)
        .p(out)
        .run("rope", pool());
    for (int64_t h = 0; h < tokens * heads; ++h) {
      std::vector<double> want(x.begin() + h * d, x.begin() + (h + 1) * d);
      rotate(want, positions[static_cast<size_t>(h / heads)], inv_freq, interleaved, 1.5);
      for (int64_t c = 0; c < d; ++c) {
        expect_near(out[static_cast<size_t>(h * d + c)], want[static_cast<size_t>(c)], 1e-5,
                    "rope");
      }
    }
  }
}

TEST(HostKvAppend, WritesTheRowsOfItsTokensOnly) {
  const Batch batch(4, 20, 90);
  const Paged paged(4, 90, 16);
  const int64_t heads = 2, d = 6, dv = 10, tokens = batch.tokens();
  const std::vector<float> k = random_floats(tokens * heads * d),
                           v = random_floats(tokens * heads * dv);
  std::vector<float> ks(static_cast<size_t>(paged.rows() * heads * d), -1.0f);
  std::vector<float> vs(static_cast<size_t>(paged.rows() * heads * dv), -1.0f);
  std::vector<float> want_k = ks, want_v = vs;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t row =
        paged.row(batch.sequence[static_cast<size_t>(t)], batch.positions[static_cast<size_t>(t)]);
    std::copy_n(k.begin() + t * heads * d, heads * d, want_k.begin() + row * heads * d);
    std::copy_n(v.begin() + t * heads * dv, heads * dv, want_v.begin() + row * heads * dv);
  }
  Call()
      .p(k)
      .p(v)
      .p(batch.positions)
      .p(batch.seq_starts)
      .p(paged.tables)
      .p(ks)
      .p(vs)
      .i(tokens)
      .i(4)
      .i(paged.width)
      .i(heads)
      .i(d)
      .i(dv)
      .i(paged.page_size)
      .run("kv_append", pool());
  EXPECT_EQ(ks, want_k);
  EXPECT_EQ(vs, want_v);
}

TEST(HostKvAppend, PositionOutsideThePagesIsAnError) {
  const std::vector<float> x(1);
  const std::vector<int32_t> positions = {4}, starts = {0, 1}, tables = {0};
  std::vector<float> state(8);
  Call call;
  call.p(x).p(x).p(positions).p(starts).p(tables).p(state).p(state).i(1).i(1).i(1).i(1).i(1).i(1).i(
      4);
  EXPECT_THROW(host::kv_append(call.slots, pool()), InternalError);
}

std::vector<double> rms(std::vector<double> x, const TestWeight& w, double shift) {
  double squares = 0;
  for (double v : x) squares += v * v;
  const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + 1e-6);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= scale * (w[static_cast<int64_t>(i)] + shift);
  return x;
}

TEST(HostRopeAppend, AllNorms) {
  for (int round = 0; round < 60; ++round) {
    const auto norm = static_cast<HostHeadNorm>(round % 3);
    const int64_t kv_heads = pick(1, 3), heads = kv_heads * pick(1, 3), d = 2 * pick(2, 17),
                  half = pick(0, d / 2);
    const bool interleaved = pick(0, 1) == 1, plus_one = pick(0, 1) == 1;
    const Batch batch(3, round == 0 ? 0 : 12, 60);
    const Paged paged(3, 60, 8);
    const int64_t tokens = batch.tokens(), width = (heads + 2 * kv_heads) * d;
    const std::vector<float> qkv = random_floats(tokens * width), inv_freq = random_floats(half);
    const bool full = norm == HostHeadNorm::full;
    TestWeight qw = TestWeight::random(full ? heads * d : d, pick_dtype());
    TestWeight kw = TestWeight::random(full ? kv_heads * d : d, pick_dtype());
    std::vector<float> ks(static_cast<size_t>(paged.rows() * kv_heads * d), -1.0f), vs = ks;
    std::vector<float> out = poisoned(tokens * heads * d);
    Call call;
    call.p(qkv).p(batch.positions).p(half > 0 ? inv_freq.data() : nullptr);
    if (norm == HostHeadNorm::none) {
      call.no_weight().no_weight();
    } else {
      call.w(qw).w(kw);
    }
    call.p(batch.seq_starts)
        .p(paged.tables)
        .p(ks)
        .p(vs)
        .i(tokens)
        .i(3)
        .i(paged.width)
        .i(heads)
        .i(kv_heads)
        .i(d)
        .i(half)
        .i(paged.page_size)
        .i(static_cast<int64_t>(norm))
        .f(1e-6)
        .i(plus_one)
        .i(interleaved)
        .f(0.5)
        .p(out)
        .run("rope_append", pool());
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = qkv.data() + t * width;
      const auto position = batch.positions[static_cast<size_t>(t)];
      const int64_t place = paged.row(batch.sequence[static_cast<size_t>(t)], position);
      const auto check = [&](const float* x, int64_t count, const TestWeight& w, const float* got) {
        std::vector<double> all(x, x + count * d);
        if (full) all = rms(all, w, plus_one);
        for (int64_t h = 0; h < count; ++h) {
          std::vector<double> one(all.begin() + h * d, all.begin() + (h + 1) * d);
          if (norm == HostHeadNorm::head) one = rms(one, w, plus_one);
          rotate(one, position, inv_freq, interleaved, half > 0 ? 0.5 : 1.0);
          for (int64_t c = 0; c < d; ++c)
            expect_near(got[h * d + c], one[static_cast<size_t>(c)], 2e-5, "rope_append");
        }
      };
      check(row, heads, qw, out.data() + t * heads * d);
      check(row + heads * d, kv_heads, kw, ks.data() + place * kv_heads * d);
      for (int64_t c = 0; c < kv_heads * d; ++c) {
        EXPECT_EQ(vs[static_cast<size_t>(place * kv_heads * d + c)],
                  row[(heads + kv_heads) * d + c]);
      }
    }
    EXPECT_EQ(std::count_if(vs.begin(), vs.end(), [](float v) { return v != -1.0f; }),
              tokens * kv_heads * d);
  }
}

}  // namespace
}  // namespace shunt
