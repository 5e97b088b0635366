// Plays a script through a StepRunner. Entry points: draw_script(), play(), difference(). Used by
// tests/meshes/meshes_test.cpp.
#include "tests/meshes/script.h"

#include <algorithm>
#include <cmath>

#include "runtime/engine/engine.h"

namespace shunt {

namespace {

constexpr double kTolerance = 1e-3;

/// Experts for about half of the tokens of a step.
std::map<std::string, std::vector<int32_t>> forced_rows(const Script& script,
                                                        const ModelFacts& facts, int64_t tokens,
                                                        uint64_t step) {
  std::map<std::string, std::vector<int32_t>> rows;
  if (script.forced == 0) return rows;
  for (int64_t layer = 0; layer < facts.moe_layers; ++layer) {
    Dice dice(script.seed + 100 * step + static_cast<uint64_t>(layer));
    std::vector<int32_t>& list = rows[fmt::format("forced.{}", layer)];
    for (int64_t t = 0; t < tokens; ++t) {
      const auto row = dice.coin() || script.force_all
                           ? dice.different(script.forced, facts.experts)
                           : std::vector<int32_t>(static_cast<size_t>(script.forced), -1);
      list.insert(list.end(), row.begin(), row.end());
    }
  }
  return rows;
}

class GroupsAlone : public StepRunner {
 public:
  explicit GroupsAlone(std::vector<std::unique_ptr<StepRunner>> groups)
      : groups_(std::move(groups)) {}
  const Limits& limits() const override { return groups_[0]->limits(); }
  int64_t pages() const override { return groups_[0]->pages(); }
  int64_t slots() const override { return groups_[0]->slots(); }
  int64_t vocab_size() const override { return groups_[0]->vocab_size(); }
  int64_t forced_width() const override { return groups_[0]->forced_width(); }
  bool has_probes() const override { return false; }
  /// The groups' sum.
  std::vector<RouteCounts> route_counts() override {
    std::vector<RouteCounts> sum = groups_[0]->route_counts();
    for (size_t g = 1; g < groups_.size(); ++g) {
      const std::vector<RouteCounts> more = groups_[g]->route_counts();
      for (size_t layer = 0; layer < sum.size(); ++layer)
        std::transform(more[layer].routes.begin(), more[layer].routes.end(),
                       sum[layer].routes.begin(), sum[layer].routes.begin(), std::plus<>());
    }
    return sum;
  }

  StepValues run(const StepInputs& in, bool) override {
    const auto vocab = static_cast<size_t>(vocab_size());
    StepValues out;
    out.logits = {static_cast<int64_t>(in.logit_rows.size()), vocab_size(), {}};
    out.logits.data.resize(in.logit_rows.size() * vocab);
    const std::vector<BatchPart> parts = split_batch(in, static_cast<int>(groups_.size()));
    for (size_t g = 0; g < parts.size(); ++g) {
      if (parts[g].tokens.empty()) continue;
      const Matrix mine = groups_[g]->run(parts[g].inputs, false).logits;
      for (size_t r = 0; r < parts[g].rows.size(); ++r)
        std::copy_n(mine.data.begin() + static_cast<int64_t>(r * vocab), vocab,
                    out.logits.data.begin() + static_cast<int64_t>(parts[g].rows[r] * vocab));
    }
    return out;
  }

 private:
  std::vector<std::unique_ptr<StepRunner>> groups_;
};

double error_of(const Matrix& got, const Matrix& want, bool float32) {
  if (got.data.size() != want.data.size()) return INFINITY;
  double squares = 0, others = 0, products = 0, largest = 0;
  for (size_t i = 0; i < want.data.size(); ++i) {
    const double x = got.data[i], y = want.data[i];
    if (!std::isfinite(x)) return INFINITY;
    largest = std::max(largest, std::abs(x - y));
    squares += y * y;
    others += x * x;
    products += x * y;
  }
  if (largest == 0) return 0;
  if (!float32) return 1 - 2 * products / (squares + others);
  return largest / std::sqrt(squares / static_cast<double>(want.data.size()));
}

}  // namespace

Script draw_script(Dice& dice, int64_t vocab) {
  const auto ids = [&](int64_t n) {
    std::vector<int32_t> list;
    for (int64_t i = 0; i < n; ++i) list.push_back(static_cast<int32_t>(dice.number(0, vocab - 1)));
    return list;
  };
  Script s;
  const int64_t sequences = dice.number(1, 5);
  for (int64_t i = 0; i < sequences; ++i) s.prompts.push_back(ids(dice.number(1, 9)));
  s.more = ids(dice.number(2, 5));
  for (int i = 0; i < 2; ++i) s.decoded.push_back(ids(sequences));
  s.longest = 9 + 5 + 2;
  s.seed = dice.bits();
  return s;
}

std::vector<StepValues> play(StepRunner& runner, const Script& script, const ModelFacts& facts,
                             bool causal) {
  const auto sequences = static_cast<int64_t>(script.prompts.size());
  SequenceFeeder feeder(runner, sequences, script.longest);
  std::vector<std::span<const int32_t>> prompts(script.prompts.begin(), script.prompts.end());
  int64_t tokens = 0;
  for (const auto& prompt : prompts) tokens += static_cast<int64_t>(prompt.size());
  const bool probes = runner.has_probes();
  std::vector<StepValues> out;
  out.push_back(feeder.append_batch(prompts, probes, forced_rows(script, facts, tokens, 0)));
  if (!causal) return out;
  const auto more = static_cast<int64_t>(script.more.size());
  out.push_back(feeder.append(0, script.more, probes, forced_rows(script, facts, more, 1)));
  for (const auto& ids : script.decoded) {
    out.push_back(
        feeder.decode(ids, probes, forced_rows(script, facts, sequences, 2 + out.size())));
  }
  return out;
}

std::unique_ptr<StepRunner> groups_alone(std::vector<std::unique_ptr<StepRunner>> groups) {
  return std::make_unique<GroupsAlone>(std::move(groups));
}

std::vector<std::vector<int32_t>> generate(Session& session,
                                           const std::vector<std::vector<int32_t>>& prompts,
                                           int64_t count) {
  std::vector<std::vector<int32_t>> out(prompts.size());
  Engine engine(session);
  for (size_t i = 0; i < prompts.size(); ++i) {
    SamplingParams params;
    params.max_tokens = count;
    params.ignore_eos = true;
    engine.submit(prompts[i], params,
                  [&out, i](const TokenEvent& e) { out[i].push_back(e.token); });
  }
  engine.run_until_done();
  return out;
}

std::string wrong_choices(StepRunner& reference, const std::vector<std::vector<int32_t>>& prompts,
                          const std::vector<std::vector<int32_t>>& chosen) {
  std::string text;
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::vector<int32_t> ids = prompts[i];
    ids.insert(ids.end(), chosen[i].begin(), chosen[i].end());
    SequenceFeeder feeder(reference, 1, static_cast<int64_t>(ids.size()));
    const Matrix logits = feeder.append(0, ids, false).logits;
    for (size_t t = prompts[i].size(); t < ids.size(); ++t) {
      const std::span<const float> row(logits.row(static_cast<int64_t>(t) - 1),
                                       static_cast<size_t>(logits.cols));
      double squares = 0;
      for (const float x : row) squares += double{x} * x;
      const double usual = std::sqrt(squares / static_cast<double>(row.size()));
      const double short_of =
          double{*std::ranges::max_element(row)} - row[static_cast<size_t>(ids[t])];
      if (!(short_of <= kTolerance * usual))
        text += fmt::format(" request {}, id {}: {:.2g}", i, t, short_of / usual);
    }
  }
  return text;
}

std::string difference(const std::vector<StepValues>& got, const std::vector<StepValues>& want,
                       bool float32, double* worst) {
  std::string text;
  for (size_t step = 0; step < want.size(); ++step) {
    const auto see = [&](const std::string& name, const Matrix& a, const Matrix& b) {
      const double error = error_of(a, b, float32);
      *worst = std::max(*worst, error);
      if (!(error <= kTolerance)) text += fmt::format(" {} {:.2g}", name, error);
    };
    for (const auto& [name, value] : want[step].probes) {
      if (const auto it = got[step].probes.find(name); it != got[step].probes.end())
        see(name, it->second, value);
    }
    see("logits", got[step].logits, want[step].logits);
    if (!text.empty()) return fmt::format("step {} is off by{}\n", step, text);
  }
  return "";
}

}  // namespace shunt
