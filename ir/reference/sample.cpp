// eval_sample: what the sampling parameters mean. Tested by tests/ir/evaluator_test.cpp.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "ir/reference/op_call.h"

namespace shunt::ir {

namespace {

/// temperature 0: the largest logit, the lowest id of equals. Otherwise, with ids in order of
/// (logit descending, id ascending): keep the first top_k (0: all); p = softmax(logit /
/// temperature) over them; keep the shortest prefix whose sum reaches top_p, at least one; of
/// these, in ascending order of id and renormalised, take the first whose cumulative probability
/// exceeds uniform.
int32_t sample_row(const float* logits, int64_t vocabulary, float temperature, int32_t top_k,
                   float top_p, float uniform) {
  if (temperature <= 0)
    return static_cast<int32_t>(std::max_element(logits, logits + vocabulary) - logits);
  std::vector<int32_t> kept(static_cast<size_t>(vocabulary));
  std::iota(kept.begin(), kept.end(), 0);
  std::stable_sort(kept.begin(), kept.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (top_k > 0) kept.resize(static_cast<size_t>(std::min<int64_t>(top_k, vocabulary)));

  const auto weight = [&](int32_t id) {
    return std::exp((static_cast<double>(logits[id]) - logits[kept[0]]) / temperature);
  };
  double total = 0;
  for (int32_t id : kept) total += weight(id);
  double prefix = 0;
  size_t n = 0;
  while (n < kept.size() && (n == 0 || prefix < top_p * total)) prefix += weight(kept[n++]);

  const int32_t best = kept[0];
  std::vector<int32_t> ids(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(n));
  std::sort(ids.begin(), ids.end());
  double cumulative = 0;
  for (int32_t id : ids) {
    cumulative += std::exp((static_cast<double>(logits[id]) - logits[best]) / temperature);
    if (cumulative > uniform * prefix) return id;
  }
  return ids.back();
}

}  // namespace

void eval_sample(OpCall& call) {
  const Tensor& logits = call.in(0);
  for (int64_t r = 0; r < logits.size(0); ++r) {
    call.out().i[r] = sample_row(logits.row(r), logits.last(), call.in(1).f[r], call.in(2).i[r],
                                 call.in(3).f[r], call.in(4).f[r]);
  }
}

}  // namespace shunt::ir
