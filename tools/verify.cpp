// verify_golden(). Tested by tests/tools/verify_test.cpp, which also breaks a golden
// and must see it.
#include "tools/verify.h"

#include <algorithm>
#include <cmath>

#include "ir/error.h"

namespace shunt {

namespace {

constexpr double kTolerance = 1e-3;

struct Difference {
  double largest = 0;  // |x - golden|
  double allowed = 0;  // float32: for `largest`
  double dissimilarity = 0;
  bool within = true;  // of atol/rtol
};

Difference compare(const Matrix& x, const Matrix& golden, const VerifyOptions& o) {
  if (x.rows != golden.rows || x.cols != golden.cols) {
    user_error(
        "the model gives [{}, {}] where the golden has [{}, {}]: it belongs to another model",
        x.rows, x.cols, golden.rows, golden.cols);
  }
  Difference d;
  double sum = 0, squares = 0, cross = 0, both = 0;
  for (size_t i = 0; i < x.data.size(); ++i) {
    const double a = x.data[i], b = golden.data[i];
    const double error = std::isfinite(a) && std::isfinite(b) ? std::abs(a - b) : INFINITY;
    d.largest = std::max(d.largest, error);
    d.within = d.within && error <= o.atol.value_or(0) + o.rtol.value_or(0) * std::abs(b);
    sum += b;
    squares += b * b;
    cross += a * b;
    both += a * a + b * b;
  }
  const double n = std::max<double>(1, x.data.size());
  const double deviation = std::sqrt(std::max(0.0, squares / n - sum / n * sum / n));
  d.allowed = kTolerance * std::max(1.0, deviation);
  d.dissimilarity = both == 0 ? 0 : 1 - 2 * cross / both;
  return d;
}

VerifyLine judge(std::string what, const Difference& d, const VerifyOptions& o) {
  if (o.atol || o.rtol) {
    return {std::move(what), d.within,
            fmt::format("largest error {:.3g} (atol {:g}, rtol {:g})", d.largest,
                        o.atol.value_or(0), o.rtol.value_or(0))};
  }
  if (o.float32) {
    return {std::move(what), d.largest <= d.allowed,
            fmt::format("largest error {:.3g}, allowed {:.3g}", d.largest, d.allowed)};
  }
  const bool ok = d.dissimilarity < kTolerance;  // false for NaN
  return {std::move(what), ok,
          fmt::format("dissimilarity {:.3g}, allowed {:g}", d.dissimilarity, kTolerance)};
}

int32_t argmax(const float* row, int64_t n) {
  return static_cast<int32_t>(std::max_element(row, row + n) - row);
}

Matrix take_rows(const Matrix& m, int64_t first, int64_t rows) {
  return {
      rows, m.cols, {m.data.begin() + first * m.cols, m.data.begin() + (first + rows) * m.cols}};
}

/// The prompts' values, one entry a sequence.
std::vector<StepValues> run_prompts(StepRunner& runner, SequenceFeeder& feeder,
                                    const std::vector<GoldenSequence>& golden,
                                    const std::map<std::string, std::vector<int32_t>>& forced) {
  int64_t total = 0;
  std::vector<std::span<const int32_t>> prompts;
  for (const GoldenSequence& s : golden) {
    total += static_cast<int64_t>(s.ids.size());
    prompts.emplace_back(s.ids);
  }
  const Limits& l = runner.limits();
  std::vector<StepValues> out(golden.size());
  const bool one_step = total <= std::min(l.max_num_batched_tokens, l.max_logit_rows) &&
                        static_cast<int64_t>(golden.size()) <= l.max_num_seqs;
  StepValues all;
  if (one_step) all = feeder.append_batch(prompts, true, forced);
  int64_t at = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    const auto n = static_cast<int64_t>(golden[i].ids.size());
    if (one_step) {
      out[i].logits = take_rows(all.logits, at, n);
      for (const auto& [name, m] : all.probes) out[i].probes[name] = take_rows(m, at, n);
    } else {
      const int64_t k = runner.forced_width();
      std::map<std::string, std::vector<int32_t>> mine;
      for (const auto& [name, rows] : forced) {
        mine[name].assign(rows.begin() + at * k, rows.begin() + (at + n) * k);
      }
      out[i] = feeder.append(static_cast<int64_t>(i), golden[i].ids, true, mine);
    }
    at += n;
  }
  return out;
}

/// The golden's ids of one step of the continuation, one a sequence.
std::vector<int32_t> greedy_tokens(const std::vector<GoldenSequence>& golden, size_t step) {
  std::vector<int32_t> tokens;
  for (const GoldenSequence& s : golden) tokens.push_back(s.greedy_ids[step]);
  return tokens;
}

/// Near-ties that are forced.
struct NearTies {
  ForcedChoices prompts;
  std::vector<ForcedChoices> steps;  // after each id of the continuation but the last
  int64_t count = 0;
};

/// Near-ties of the golden's router logits; of a float32 run's for prompts where it has none, and
/// for the continuation.
NearTies find_near_ties(const std::vector<GoldenSequence>& golden, int64_t longest,
                        const VerifyOptions& o) {
  std::vector<const std::map<std::string, Matrix>*> probes;
  bool complete = true;
  for (const GoldenSequence& s : golden) {
    probes.push_back(&s.probes);
    for (const Router& r : o.routers)
      complete = complete && s.probes.contains("router_logits." + r.number);
  }
  NearTies out;
  const size_t steps = golden[0].greedy_ids.size();
  if (!complete || steps > 1) {
    const auto runner = o.make_float32_runner();
    SequenceFeeder feeder(*runner, static_cast<int64_t>(golden.size()), longest);
    const std::vector<StepValues> values = run_prompts(*runner, feeder, golden, {});
    for (size_t i = 0; i < golden.size() && !complete; ++i) probes[i] = &values[i].probes;
    out.prompts = force_near_ties(o.routers, probes);
    for (size_t step = 0; step + 1 < steps; ++step) {
      const StepValues step_values = feeder.decode(greedy_tokens(golden, step), true);
      out.steps.push_back(force_near_ties(o.routers, {&step_values.probes}));
      out.count += out.steps.back().count;
    }
  } else {
    out.prompts = force_near_ties(o.routers, probes);
  }
  out.count += out.prompts.count;
  return out;
}

/// "hidden.2" before "hidden.10".
bool probe_order(const std::string& a, const std::string& b) {
  return a.size() != b.size() && a.substr(0, 4) == b.substr(0, 4) ? a.size() < b.size() : a < b;
}

void compare_probes(const std::vector<GoldenSequence>& golden, const std::vector<StepValues>& got,
                    const VerifyOptions& o, VerifyReport& report) {
  std::vector<std::string> names;
  for (const auto& [name, m] : golden[0].probes) names.push_back(name);
  std::sort(names.begin(), names.end(), probe_order);
  std::string first_bad;
  int compared = 0;
  for (const std::string& name : names) {
    if (!name.starts_with("hidden.")) continue;
    VerifyLine worst;
    for (size_t i = 0; i < golden.size(); ++i) {
      const auto it = got[i].probes.find(name);
      if (it == got[i].probes.end()) user_error("the model has no value named {}", name);
      VerifyLine line = judge(name, compare(it->second, golden[i].probes.at(name), o), o);
      if (i == 0 || (worst.ok && !line.ok)) worst = std::move(line);
    }
    ++compared;
    if (!worst.ok && first_bad.empty()) first_bad = name;
    report.lines.push_back(std::move(worst));
  }
  if (compared > 0) {
    report.lines.push_back({"hidden states", first_bad.empty(),
                            first_bad.empty() ? fmt::format("{} compared", compared)
                                              : "the first that differs is " + first_bad});
  }
}

void compare_greedy(SequenceFeeder& feeder, const std::vector<GoldenSequence>& golden,
                    const std::vector<StepValues>& prompts, const NearTies& ties,
                    const VerifyOptions& o, VerifyReport& report) {
  const double clear = o.margin.value_or(o.float32 ? 1e-3 : 0.25);
  const size_t steps = golden[0].greedy_ids.size();
  int64_t compared = 0, skipped = 0, wrong = 0;
  std::string first_wrong;
  const auto check = [&](size_t i, size_t step, const float* row, int64_t vocab) {
    if (golden[i].greedy_margin[step] < clear) {
      ++skipped;
      return;
    }
    ++compared;
    const int32_t id = argmax(row, vocab);
    if (id == golden[i].greedy_ids[step]) return;
    if (wrong++ == 0) {
      first_wrong = fmt::format("; first: {}, step {}: {} instead of {}", golden[i].name, step, id,
                                golden[i].greedy_ids[step]);
    }
  };
  for (size_t i = 0; i < golden.size(); ++i) {
    const Matrix& m = prompts[i].logits;
    check(i, 0, m.row(m.rows - 1), m.cols);
  }
  const std::map<std::string, std::vector<int32_t>> none;
  for (size_t step = 1; step < steps; ++step) {
    const auto& forced = ties.steps.empty() ? none : ties.steps[step - 1].rows;
    const Matrix logits = feeder.decode(greedy_tokens(golden, step - 1), false, forced).logits;
    for (size_t i = 0; i < golden.size(); ++i)
      check(i, step, logits.row(static_cast<int64_t>(i)), logits.cols);
  }
  report.lines.push_back({"greedy ids", wrong == 0,
                          fmt::format("{} of {} equal, {} with a margin below {:g} not compared{}",
                                      compared - wrong, compared, skipped, clear, first_wrong)});
}

}  // namespace

void check_ids(std::span<const int32_t> ids, int64_t vocab_size, std::string_view what) {
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      user_error(
          "{} has token id {}, outside the model's vocabulary of {}: it belongs to another model",
          what, id, vocab_size);
    }
  }
}

bool VerifyReport::ok() const {
  return !lines.empty() &&
         std::all_of(lines.begin(), lines.end(), [](const VerifyLine& l) { return l.ok; });
}

VerifyReport verify_golden(StepRunner& runner, const std::vector<GoldenSequence>& golden,
                           const VerifyOptions& options) {
  if (golden.empty()) user_error("the golden file has no sequences");
  for (const GoldenSequence& s : golden) {
    check_ids(s.ids, runner.vocab_size(), s.name);
    check_ids(s.greedy_ids, runner.vocab_size(), s.name);
    if (s.greedy_ids.size() != golden[0].greedy_ids.size())
      user_error("golden continuations differ in length");
  }
  const GoldenSizes sizes = sizes_of(golden);
  SequenceFeeder feeder(runner, sizes.sequences, sizes.longest);
  VerifyReport report;
  NearTies ties;
  if (!options.float32 && !options.routers.empty()) {
    std::string text = "the plan has no forced-routing inputs: near-ties may flip";
    if (runner.forced_width() > 0) {
      ties = find_near_ties(golden, sizes.longest, options);
      text = fmt::format("{} near-ties forced", ties.count);
      if (ties.prompts.random_layers > 0)
        text += fmt::format("; not in {} layers that draw an expert", ties.prompts.random_layers);
    }
    report.lines.push_back({"routing", true, std::move(text)});
  }
  const std::vector<StepValues> got = run_prompts(runner, feeder, golden, ties.prompts.rows);
  for (size_t i = 0; i < golden.size(); ++i) {
    report.lines.push_back(judge("logits of " + golden[i].name,
                                 compare(got[i].logits, golden[i].logits, options), options));
  }
  if (runner.has_probes()) {
    compare_probes(golden, got, options, report);
  } else {
    report.lines.push_back(
        {"hidden states", true, "not compared: other dp groups have some of them"});
  }
  if (!golden[0].greedy_ids.empty()) compare_greedy(feeder, golden, got, ties, options, report);
  return report;
}

}  // namespace shunt
