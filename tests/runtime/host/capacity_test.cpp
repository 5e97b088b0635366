// The host kernel topk_gate with a capacity against the evaluator's drop_routes.
#include "ir/reference/capacity.h"

#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;

TEST(HostCapacity, DropsWhatTheEvaluatorDrops) {
  for (int round = 0; round < 300; ++round) {
    ir::TopkGateAttrs a;
    const int64_t experts = pick(2, 9), tokens = pick(1, 70);
    a.k = pick(1, std::min<int64_t>(4, experts));
    a.drop = static_cast<ir::Drop>(pick(0, 3));
    a.sample_second = a.k == 2 && pick(0, 1) == 1;
    a.norm = static_cast<ir::RouteNorm>(pick(0, 1));
    a.norm_min = 0x1p-23;
    a.scale = pick(0, 1) == 1 ? 1.5 : 1.0;
    a.seed = pick(-5, 5);
    if (a.drop != ir::Drop::none) {
      a.capacity_factor = static_cast<double>(pick(0, 8)) / 4;
      a.min_capacity = pick(0, 3);
    }
    if (!a.depends_on_batch()) continue;
    const std::vector<float> logits = random_floats(tokens * experts);
    std::vector<float> w = poisoned(tokens * a.k);
    std::vector<int32_t> ids(w.size(), -7), forced(w.size(), -1);
    for (int64_t t = 0; t < tokens; ++t) {
      if (pick(0, 4) > 0) continue;
      for (int64_t j = 0; j < a.k; ++j) {
        forced[t * a.k + j] = static_cast<int32_t>((t + j) % experts);
      }
    }
    // The plain kernel gives scores of the chosen; the evaluator drops from them.
    std::vector<float> expected = w;
    std::vector<int32_t> expected_ids = ids;
    std::vector<int64_t> counts(static_cast<size_t>(experts), 0);
    const auto run = [&](bool plain, std::vector<float>& weights, std::vector<int32_t>& chosen) {
      Call call;
      call.p(logits).no_weight().p(forced).i(tokens).none().i(experts).i(a.k).i(0);
      call.i(plain ? 0 : static_cast<int64_t>(a.norm)).f(a.norm_eps).f(a.norm_min);
      call.f(plain ? 1 : a.scale).f(a.jitter).i(1).i(1).i(0).p(weights).p(chosen).p(counts);
      call.i(plain ? 0 : static_cast<int64_t>(a.drop));
      call.f(a.capacity_factor * static_cast<double>(a.k)).i(a.min_capacity);
      call.i(!plain && a.sample_second).i(a.seed);
      call.run("topk_gate", pool());
    };
    run(true, expected, expected_ids);
    ir::drop_routes(a, tokens, experts, logits.data(), forced.data(), expected.data(),
                    expected_ids.data());
    std::fill(counts.begin(), counts.end(), 0);
    run(false, w, ids);
    ASSERT_EQ(ids, expected_ids) << "round " << round;
    std::vector<int64_t> kept(counts.size(), 0);
    for (const int32_t id : ids) {
      if (id >= 0) ++kept[static_cast<size_t>(id)];
    }
    ASSERT_EQ(counts, kept) << "round " << round;
    for (size_t r = 0; r < w.size(); ++r) expect_near(w[r], expected[r], 1e-5, "weight");
  }
}

}  // namespace
}  // namespace shunt
