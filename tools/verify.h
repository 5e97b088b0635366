// Comparing a model on some executor with golden data, and its mean negative log-likelihood on a
// text.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/golden.h"
#include "tools/near_ties.h"
#include "tools/step_runner.h"

namespace shunt {

struct VerifyOptions {
  /// float32 executors (cpu, reference): the largest error may be 1e-3 * max(1, standard deviation
  /// of the golden). Others: 1 - 2 sum(xy) / sum(x^2 + y^2) may be 1e-3, and expert choices that
  /// are near-ties are forced.
  bool float32 = true;
  /// If either is given: |x - golden| <= atol + rtol * |golden|, for every tensor.
  std::optional<double> atol, rtol;
  /// Greedy ids are compared where the golden margin is at least this. Default: 1e-3, or 0.25
  /// without float32.
  std::optional<double> margin;
  /// Without float32: the model's routers, for near-ties, and a float32 executor of the same model
  /// for router logits that the golden lacks: of the continuation, and often of the prompts. Its
  /// choice is the golden's: the two agree.
  std::vector<Router> routers;
  std::function<std::unique_ptr<StepRunner>()> make_float32_runner;
};

struct VerifyLine {
  std::string what;  // "logits", "hidden.3", "greedy ids"
  bool ok = true;
  std::string text;  // measured and allowed
};

struct VerifyReport {
  std::vector<VerifyLine> lines;
  bool ok() const;
};

/// Runs the prompts of all sequences (in one batch where the limits allow), compares logits and
/// probes, then decodes teacher-forced and compares greedy ids. The first probe that differs is
/// named in its line.
VerifyReport verify_golden(StepRunner& runner, const std::vector<GoldenSequence>& golden,
                           const VerifyOptions& options);

/// Throws UserError saying that `what` has an id outside the vocabulary.
void check_ids(std::span<const int32_t> ids, int64_t vocab_size, std::string_view what);

/// Mean negative log-likelihood, in nats, of ids[i] given the ids before it in its window; windows
/// of `window` ids are independent, the first id of each is not predicted. `on_progress` gets the
/// number of ids done.
double mean_nll(StepRunner& runner, std::span<const int32_t> ids, int64_t window,
                const std::function<void(int64_t)>& on_progress = {});

}  // namespace shunt
