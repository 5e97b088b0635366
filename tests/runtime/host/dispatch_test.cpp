// dispatch_pack, dispatch_unpack and combine_places on one of two ranks, against rows written by
// hand: an expert with two replicas, a dropped route, a token that goes to both ranks, padding.
#include "ir/random.h"
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

constexpr int64_t kTokens = 4, kTop = 2, kWidth = 3, kRanks = 2;
constexpr int64_t kPayload = 16, kRow = 32;  // bytes: 3 floats and padding, 2 ids, 2 weights

/// Expert 0 is slot 0 of rank 0, expert 1 slot 0 of rank 1, expert 2 slot 1 of both.
const std::vector<float> kTable = {0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 0.5f, 1, 1, 1};
const std::vector<int32_t> kIds = {0, 2, 2, -1, 1, 2, 0, 1};
const std::vector<float> kX = {0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32};
const std::vector<float> kWeights = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f};

struct Packed {
  std::vector<int32_t> places = std::vector<int32_t>(kTokens * kRanks, 99);
  std::vector<float> messages = poisoned(kRanks * kTokens * kRow / 4);
};

Packed pack(const int32_t* true_tokens) {
  Packed out;
  Call call;
  call.p(kX).p(kIds).p(kWeights).p(kTable).i(kTokens).p(true_tokens).i(kTop).i(kWidth);
  call.i(3).i(2).i(kRanks).i(0).i(1).i(1).i(kPayload).i(kRow).p(out.places).p(out.messages);
  call.run("dispatch_pack", pool());
  return out;
}

TEST(HostDispatch, SendsATokenOnceToEachRankThatTakesIt) {
  // Where the tokens fall between the replicas of expert 2.
  ASSERT_GE(route_share(0), 0.5f);
  ASSERT_LT(route_share(1), 0.5f);
  ASSERT_GE(route_share(2), 0.5f);
  const int32_t three = 3;
  Packed sent = pack(&three);
  EXPECT_EQ(sent.places, (std::vector<int32_t>{0, 0, 1, -1, -1, 1, -1, -1}));

  std::vector<float> x = poisoned(kRanks * kTokens * kWidth);
  std::vector<int32_t> ids(kRanks * kTokens * kTop, 99);
  std::vector<float> w = poisoned(kRanks * kTokens * kTop);
  Call call;
  call.p(sent.messages).i(kRanks * kTokens).i(kTop).i(kWidth).i(kPayload).i(kRow).p(x).p(ids).p(w);
  call.run("dispatch_unpack", pool());
  EXPECT_EQ(ids, (std::vector<int32_t>{0, -1, 1, -1, -1, -1, -1, -1,    // to rank 0: tokens 0, 1
                                       -1, 1, 0, 1, -1, -1, -1, -1}));  // to rank 1: tokens 0, 2
  const std::vector<int64_t> rows = {0, 1, -1, -1, 0, 2, -1, -1};
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < kWidth && rows[r] >= 0; ++c)
      EXPECT_EQ(x[r * kWidth + c], kX[static_cast<size_t>(rows[r]) * kWidth + c]) << r;
    for (size_t j = 0; j < kTop; ++j) {
      const float want = rows[r] < 0 ? 0 : kWeights[static_cast<size_t>(rows[r]) * kTop + j];
      EXPECT_EQ(w[r * kTop + j], want) << r;
    }
  }
}

TEST(HostDispatch, WithoutPaddingAllTokensGo) {
  EXPECT_EQ(pack(nullptr).places, (std::vector<int32_t>{0, 0, 1, -1, -1, 1, 2, 2}));
}

TEST(HostDispatch, CombineAddsWhatCameBack) {
  std::vector<float> received = poisoned(kRanks * kTokens * kWidth);
  const auto set = [&](int64_t rank, int64_t place, float value) {
    for (int64_t c = 0; c < kWidth; ++c)
      received[static_cast<size_t>((rank * kTokens + place) * kWidth + c)] = value;
  };
  set(0, 0, 1);
  set(0, 1, 2);
  set(1, 0, 4);
  set(1, 1, 8);
  const std::vector<int32_t> places = {0, 0, 1, -1, -1, 1, -1, -1};
  std::vector<float> out = poisoned(kTokens * kWidth);
  Call call;
  call.p(received).p(places).i(kTokens).i(kRanks).i(kWidth).p(out);
  call.run("combine_places", pool());
  EXPECT_EQ(out, (std::vector<float>{5, 5, 5, 2, 2, 2, 8, 8, 8, 0, 0, 0}));
}

}  // namespace
}  // namespace shunt
