// attention against a double-precision loop: decode, prefill and both in one batch, windows,
// chunks, softcap, sinks.
#include <fmt/core.h>

#include "ir/error.h"
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

struct Case {
  int64_t heads, kv_heads, d, dv, page_size;
  int64_t window = 0, chunk = 0;
  double softcap = 0;
  bool sinks = false;
  std::vector<std::pair<int64_t, int64_t>> sequences;  // new tokens, context with them
  bool slopes = false;
};

void check(const Case& c) {
  int64_t context = 1;
  std::vector<int32_t> starts{0}, lens;
  for (const auto& [fresh, total] : c.sequences) {
    starts.push_back(starts.back() + static_cast<int32_t>(fresh));
    lens.push_back(static_cast<int32_t>(total));
    context = std::max(context, total);
  }
  const auto sequences = static_cast<int64_t>(c.sequences.size());
  const int64_t tokens = starts.back();
  const Paged paged(sequences, context, c.page_size);
  const std::vector<float> q = random_floats(tokens * c.heads * c.d, 1.5f);
  const std::vector<float> k = random_floats(paged.rows() * c.kv_heads * c.d);
  const std::vector<float> v = random_floats(paged.rows() * c.kv_heads * c.dv);
  TestWeight sinks = TestWeight::random(c.heads, pick_dtype());
  TestWeight slopes = TestWeight::random(c.heads, pick_dtype());
  std::vector<float> out = poisoned(tokens * c.heads * c.dv);
  const double scale = 1 / std::sqrt(static_cast<double>(c.d));
  Call call;
  call.p(q).p(starts).p(lens).p(paged.tables).p(k).p(v);
  if (c.sinks) {
    call.w(sinks);
  } else {
    call.no_weight();
  }
  if (c.slopes) {
    call.w(slopes);
  } else {
    call.no_weight();
  }
  call.i(tokens)
      .i(sequences)
      .i(paged.width)
      .i(c.heads)
      .i(c.kv_heads)
      .i(c.d)
      .i(c.dv)
      .i(c.page_size)
      .f(scale)
      .i(c.window)
      .i(c.chunk)
      .f(c.softcap)
      .p(out)
      .run("attention", pool());

  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t t = starts[static_cast<size_t>(s)]; t < starts[static_cast<size_t>(s) + 1]; ++t) {
      const int64_t position =
          lens[static_cast<size_t>(s)] - (starts[static_cast<size_t>(s) + 1] - t);
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t kv = h / (c.heads / c.kv_heads);
        std::vector<double> p(static_cast<size_t>(position) + 1, 0.0);
        double total = c.sinks ? std::exp(static_cast<double>(sinks[h])) : 0.0;
        for (int64_t j = 0; j <= position; ++j) {
          if (c.window > 0 && j <= position - c.window) continue;
          if (c.chunk > 0 && j / c.chunk != position / c.chunk) continue;
          double score = 0;
          for (int64_t i = 0; i < c.d; ++i) {
            score += static_cast<double>(q[static_cast<size_t>((t * c.heads + h) * c.d + i)]) *
                     k[static_cast<size_t>((paged.row(s, j) * c.kv_heads + kv) * c.d + i)];
          }
          score *= scale;
          if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
          if (c.slopes) score += slopes[h] * static_cast<double>(j - position);
          total += p[static_cast<size_t>(j)] = std::exp(score);
        }
        for (int64_t i = 0; i < c.dv; ++i) {
          double want = 0;
          for (int64_t j = 0; j <= position; ++j) {
            want += p[static_cast<size_t>(j)] / total *
                    v[static_cast<size_t>((paged.row(s, j) * c.kv_heads + kv) * c.dv + i)];
          }
          expect_near(out[static_cast<size_t>((t * c.heads + h) * c.dv + i)], want, 1e-5,
                      fmt::format("sequence {} position {} head {} d {}", s, position, h, c.d));
          if (testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(HostAttention, Decode) {
  check({4, 2, 64, 64, 64, 0, 0, 0, false, {{1, 1}, {1, 64}, {1, 65}, {1, 300}, {0, 17}}});
  check({3, 3, 20, 28, 16, 0, 0, 0, false, {{1, 5}, {1, 100}}});
  check({8, 1, 24, 8, 7, 0, 0, 0, true, {{1, 90}, {2, 40}, {0, 0}}});
}

TEST(HostAttention, Prefill) {
  check({4, 2, 64, 64, 64, 0, 0, 0, false, {{200, 200}}});
  check({4, 2, 64, 64, 64, 0, 0, 0, false, {{70, 250}, {33, 33}}});
  check({6, 2, 10, 13, 16, 0, 0, 0, false, {{61, 61}}});
}

TEST(HostAttention, MixedBatch) {
  check({4, 2, 32, 32, 64, 0, 0, 0, false, {{1, 77}, {90, 90}, {3, 130}, {0, 9}, {20, 64}}});
}

TEST(HostAttention, WindowChunkSoftcapSinks) {
  for (int64_t window : {0, 1, 37}) {
    for (int64_t chunk : {0, 50}) {
      check({4, 2, 16, 16, 32, window, chunk, 0, false, {{1, 120}, {130, 130}, {60, 170}}});
      check({4, 2, 16, 16, 32, window, chunk, 5.0, true, {{1, 120}, {130, 130}, {2, 170}}});
    }
  }
}

TEST(HostAttention, RandomCases) {
  for (int round = 0; round < 40; ++round) {
    Case c;
    c.kv_heads = pick(1, 3);
    c.heads = c.kv_heads * pick(1, 4);
    c.d = pick(1, 40);
    c.dv = pick(1, 40);
    c.page_size = pick(1, 70);
    c.window = pick(0, 2) == 0 ? pick(1, 60) : 0;
    c.softcap = pick(0, 2) == 0 ? 3.0 : 0.0;
    c.sinks = pick(0, 1) == 1;
    c.slopes = pick(0, 2) == 0;
    for (int64_t s = pick(0, 4); s > 0; --s) {
      const int64_t total = pick(0, 120);
      c.sequences.emplace_back(pick(0, total), total);
    }
    check(c);
    if (HasFatalFailure()) return;
  }
}

TEST(HostAttention, HugeScoresStayFinite) {
  const std::vector<float> q(32 * 8, 300.0f), k(64 * 8, 300.0f), v(64 * 8, 2.0f);
  const std::vector<int32_t> starts = {0, 32}, lens = {32}, tables = {0};
  std::vector<float> out = poisoned(32 * 8);
  Call()
      .p(q)
      .p(starts)
      .p(lens)
      .p(tables)
      .p(k)
      .p(v)
      .no_weight()
      .no_weight()
      .i(32)
      .i(1)
      .i(1)
      .i(1)
      .i(1)
      .i(8)
      .i(8)
      .i(64)
      .f(1.0)
      .i(0)
      .i(0)
      .f(0)
      .p(out)
      .run("attention", pool());
  for (float x : out) EXPECT_NEAR(x, 2.0f, 1e-5);
}

TEST(HostAttention, ContextBeyondThePagesIsAnError) {
  const std::vector<float> x(64);
  const std::vector<int32_t> starts = {0, 1}, lens = {65}, tables = {0};
  std::vector<float> out(1);
  Call call;
  call.p(x)
      .p(starts)
      .p(lens)
      .p(tables)
      .p(x)
      .p(x)
      .no_weight()
      .no_weight()
      .i(1)
      .i(1)
      .i(1)
      .i(1)
      .i(1)
      .i(1)
      .i(1)
      .i(64)
      .f(1.0)
      .i(0)
      .i(0)
      .f(0)
      .p(out);
  EXPECT_THROW(host::attention(call.slots, pool()), InternalError);
}

TEST(HostAttention, EncoderSeesWholeSequences) {
  const std::vector<int32_t> starts = {0, 3, 3, 40};
  const int64_t tokens = 40, heads = 4, kv_heads = 2, d = 12, dv = 5;
  const std::vector<float> q = random_floats(tokens * heads * d, 1.5f);
  const std::vector<float> k = random_floats(tokens * kv_heads * d);
  const std::vector<float> v = random_floats(tokens * kv_heads * dv);
  std::vector<float> out = poisoned(tokens * heads * dv);
  Call call;
  call.p(q).p(k).p(v).p(starts).i(tokens).i(3).i(heads).i(kv_heads).i(d).i(dv).f(0.3).p(out);
  call.run("encoder_attention", pool());
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t begin = t < 3 ? 0 : 3, end = t < 3 ? 3 : 40;
    for (int64_t h = 0; h < heads; ++h) {
      double total = 0;
      std::vector<double> want(static_cast<size_t>(dv), 0.0);
      for (int64_t j = begin; j < end; ++j) {
        double score = 0;
        for (int64_t c = 0; c < d; ++c) {
          score += static_cast<double>(q[static_cast<size_t>((t * heads + h) * d + c)]) *
                   k[static_cast<size_t>((j * kv_heads + h / 2) * d + c)];
        }
        const double p = std::exp(0.3 * score);
        total += p;
        for (int64_t c = 0; c < dv; ++c) {
          want[static_cast<size_t>(c)] +=
              p * v[static_cast<size_t>((j * kv_heads + h / 2) * dv + c)];
        }
      }
      for (int64_t c = 0; c < dv; ++c) {
        expect_near(out[static_cast<size_t>((t * heads + h) * dv + c)],
                    want[static_cast<size_t>(c)] / total, 1e-5, "encoder");
      }
    }
  }
}

}  // namespace
}  // namespace shunt
