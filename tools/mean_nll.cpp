// mean_nll() of tools/verify.h. Tested by tests/tools/verify_test.cpp.
#include <algorithm>
#include <cmath>

#include "ir/error.h"
#include "tools/verify.h"

namespace shunt {

double mean_nll(StepRunner& runner, std::span<const int32_t> ids, int64_t window,
                const std::function<void(int64_t)>& on_progress) {
  check_ids(ids, runner.vocab_size(), "the text");
  SequenceFeeder feeder(runner, 1, window);
  double sum = 0;
  int64_t predicted = 0;
  for (size_t at = 0; at < ids.size(); at += static_cast<size_t>(window)) {
    const auto part = ids.subspan(at, std::min<size_t>(window, ids.size() - at));
    feeder.reset(0);
    const Matrix logits = feeder.append(0, part, false).logits;
    for (int64_t r = 0; r + 1 < logits.rows; ++r) {
      const float* row = logits.row(r);
      const float top = *std::max_element(row, row + logits.cols);
      double total = 0;
      for (int64_t c = 0; c < logits.cols; ++c)
        total += std::exp(static_cast<double>(row[c]) - top);
      sum += std::log(total) + top - row[part[r + 1]];
      ++predicted;
    }
    if (on_progress) on_progress(static_cast<int64_t>(at + part.size()));
  }
  if (predicted == 0) user_error("the text is shorter than two tokens: nothing to predict");
  return sum / static_cast<double>(predicted);
}

}  // namespace shunt
