// embedding, gather_rows, copy_2d, transpose, combine_routes and dummy.
#include "ir/error.h"
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

TEST(HostRows, Embedding) {
  for (int64_t tokens : {0, 1, 33}) {
    const int64_t vocab = 20, width = 37, offset = 2;
    TestWeight table = TestWeight::random(vocab * width, pick_dtype());
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < tokens; ++t)
      ids.push_back(static_cast<int32_t>(pick(0, vocab - 1 - offset)));
    std::vector<float> out = poisoned(tokens * width);
    Call()
        .p(ids)
        .w(table)
        .i(tokens)
        .i(vocab)
        .i(width)
        .i(offset)
        .i(0)
        .i(0)  // the whole table
        .p(out)
        .run("embedding", pool());
    for (int64_t i = 0; i < tokens * width; ++i) {
      EXPECT_EQ(out[static_cast<size_t>(i)],
                table[(ids[static_cast<size_t>(i / width)] + offset) * width + i % width]);
    }
  }
}

TEST(HostRows, IdsOutsideTheTableAreErrors) {
  std::vector<float> table(8), out(4);
  for (int32_t id : {-1, 2}) {
    const std::vector<int32_t> ids = {id};
    Call embedding, gather;
    embedding.p(ids).p(table).i(0).i(1).i(2).i(4).i(0).p(out);
    gather.p(table).p(ids).i(2).i(1).i(4).p(out);
    EXPECT_THROW(host::embedding(embedding.slots, pool()), InternalError);
    EXPECT_THROW(host::gather_rows(gather.slots, pool()), InternalError);
  }
}

TEST(HostRows, GatherRows) {
  const int64_t n = 9, width = 13;
  const std::vector<float> x = random_floats(n * width);
  for (const std::vector<int32_t>& rows : {std::vector<int32_t>{}, {8}, {3, 3, 0, 8}}) {
    const auto count = static_cast<int64_t>(rows.size());
    std::vector<float> out = poisoned(count * width);
    Call().p(x).p(rows).i(n).i(count).i(width).p(out).run("gather_rows", pool());
    for (int64_t i = 0; i < count * width; ++i) {
      EXPECT_EQ(out[static_cast<size_t>(i)],
                x[static_cast<size_t>(rows[static_cast<size_t>(i / width)] * width + i % width)]);
    }
  }
}

TEST(HostRows, Copy2d) {
  std::vector<uint16_t> from(60), to(80, 0xffff);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint16_t>(i);
  // Columns [1, 4) of a [10, 6] matrix into columns [5, 8) of a [10, 8] one.
  Call().p(from).i(2).i(12).p(to).i(10).i(16).i(10).i(6).run("copy_2d", pool());
  for (size_t r = 0; r < 10; ++r) {
    for (size_t c = 0; c < 8; ++c) EXPECT_EQ(to[r * 8 + c], c < 5 ? 0xffff : from[r * 6 + c - 4]);
  }
}

TEST(HostRows, Transpose) {
  const int64_t batch = 3, a = 5, b = 7;
  const std::vector<float> x = random_floats(batch * a * b);
  std::vector<float> out = poisoned(batch * a * b);
  Call().p(x).i(batch).i(a).i(b).i(4).p(out).run("transpose", pool());
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t i = 0; i < a; ++i) {
      for (int64_t j = 0; j < b; ++j) {
        EXPECT_EQ(out[static_cast<size_t>((n * b + j) * a + i)],
                  x[static_cast<size_t>((n * a + i) * b + j)]);
      }
    }
  }
}

TEST(HostRows, CombineRoutes) {
  for (int round = 0; round < 40; ++round) {
    const int64_t tokens = pick(0, 20), k = pick(1, 4), h = pick(1, 200);
    std::vector<float> y = random_floats(tokens * k * h);
    const std::vector<float> w = random_floats(tokens * k), residual = random_floats(tokens * h);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < tokens * k; ++i) ids.push_back(static_cast<int32_t>(pick(-1, 5)));
    for (size_t i = 0; i < y.size(); ++i) {
      if (ids[i / static_cast<size_t>(h)] < 0) y[i] = NAN;  // never read
    }
    const bool add = pick(0, 1) == 1;
    std::vector<float> out = poisoned(tokens * h);
    Call()
        .p(y)
        .p(w)
        .p(ids)
        .p(add ? residual.data() : nullptr)
        .i(tokens)
        .i(k)
        .i(h)
        .p(out)
        .run("combine_routes", pool());
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t c = 0; c < h; ++c) {
        double want = add ? residual[static_cast<size_t>(t * h + c)] : 0.0;
        for (int64_t r = t * k; r < (t + 1) * k; ++r) {
          if (ids[static_cast<size_t>(r)] >= 0)
            want +=
                static_cast<double>(w[static_cast<size_t>(r)]) * y[static_cast<size_t>(r * h + c)];
        }
        expect_near(out[static_cast<size_t>(t * h + c)], want, 1e-6, "combine");
      }
    }
  }
}

TEST(HostDummy, NormalNumbersThatDependOnSeedAndPlace) {
  const int64_t n = 50001;
  std::vector<float> a(static_cast<size_t>(n)), b(a.size()), c(a.size());
  std::vector<uint16_t> half(a.size());
  ThreadPool one(1);
  Call().p(a).i(static_cast<int64_t>(DType::f32)).i(n).i(5).f(0.5).f(2.0).run("dummy", pool());
  Call().p(b).i(static_cast<int64_t>(DType::f32)).i(n).i(5).f(0.5).f(2.0).run("dummy", one);
  Call().p(c).i(static_cast<int64_t>(DType::f32)).i(n).i(6).f(0.5).f(2.0).run("dummy", pool());
  Call().p(half).i(static_cast<int64_t>(DType::bf16)).i(n).i(5).f(0.5).f(2.0).run("dummy", pool());
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  double mean = 0, squares = 0, product = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    mean += a[i] / static_cast<double>(n);
    squares += (a[i] - 0.5) * (a[i] - 0.5) / static_cast<double>(n);
    if (i > 0) product += (a[i] - 0.5) * (a[i - 1] - 0.5) / static_cast<double>(n);
    EXPECT_EQ(half[i], bf16_from_f32(a[i]));
  }
  EXPECT_NEAR(mean, 0.5, 0.05);
  EXPECT_NEAR(squares, 4.0, 0.15);
  EXPECT_NEAR(product, 0.0, 0.1);
}

}  // namespace
}  // namespace shunt
