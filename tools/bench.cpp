// The bench loop and its floor. Entry point run_bench(); tested by tests/tools/bench_test.cpp.
#include "tools/bench.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

#include "ir/error.h"
#include "ir/target.h"

namespace shunt {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  return {median, values.front(), values.back()};
}

/// Experts that computed a route between two readings of the counters, a layer on average.
double distinct_experts(const std::vector<RouteCounts>& before,
                        const std::vector<RouteCounts>& after) {
  int64_t distinct = 0;
  for (size_t layer = 0; layer < after.size(); ++layer)
    for (size_t e = 0; e < after[layer].routes.size(); ++e)
      distinct += after[layer].routes[e] != before[layer].routes[e];
  return after.empty() ? 0 : static_cast<double>(distinct) / static_cast<double>(after.size());
}

class Loop {
 public:
  Loop(Session& session, const BenchCase& what, const BenchOptions& options)
      : session_(session),
        what_(what),
        options_(options),
        limits_(session.plan().limits),
        table_width_((limits_.max_model_len + limits_.page_size - 1) / limits_.page_size) {}

  /// All prompts, in steps of at most max_num_batched_tokens; each sequence's last token gets
  /// logits.
  double prefill() {
    const double start = now();
    int64_t seq = 0, done = 0;
    while (seq < what_.batch) {
      begin_step();
      while (seq < what_.batch) {
        const StepSizes& group = sizes_[group_of(seq)];
        const int64_t room = limits_.max_num_batched_tokens - group.T;
        if (room == 0 || group.S == limits_.max_num_seqs) break;
        const int64_t n = std::min(what_.prompt - done, room);
        add(seq, done, n);
        done += n;
        if (done == what_.prompt) ++seq, done = 0;
      }
      finish_step(false);
    }
    return now() - start;
  }

  double decode_step(int64_t length) {
    const double start = now();
    begin_step();
    for (int64_t seq = 0; seq < what_.batch; ++seq) add(seq, length, 1);
    finish_step(true);
    return now() - start;
  }

 private:
  /// Where the inputs of a dp group's batch are written.
  struct Inputs {
    std::span<int32_t> tokens, positions, seq_starts, kv_lens, block_tables, logit_rows;
    std::span<int32_t> state_slots;  // empty if the plan has none
  };

  /// Sequences are dealt out to the dp groups in turn.
  size_t group_of(int64_t seq) const { return static_cast<size_t>(seq % session_.groups()); }

  void begin_step() {
    sizes_.assign(static_cast<size_t>(session_.groups()), {});
    inputs_.clear();
    for (int g = 0; g < session_.groups(); ++g) {
      const auto port = [&](const char* role) { return session_.input_as<int32_t>(role, g); };
      inputs_.push_back(
          {port("tokens"), port("positions"), port("seq_starts"), port("kv_lens"),
           port("block_tables"), port("logit_rows"),
           session_.has_port("state_slots") ? port("state_slots") : std::span<int32_t>()});
      inputs_.back().seq_starts[0] = 0;
    }
  }

  /// `n` new tokens of a sequence that has `length` already.
  void add(int64_t seq, int64_t length, int64_t n) {
    const int64_t pages = bench_pages(limits_, {what_.prompt, what_.decode, 1});
    const Inputs& in = inputs_[group_of(seq)];
    auto& [T, S, R] = sizes_[group_of(seq)];
    const int64_t number = seq / session_.groups();  // within its group
    for (int64_t i = 0; i < n; ++i) {
      in.tokens[T + i] = static_cast<int32_t>(random_() % session_.plan().model.vocab_size);
      in.positions[T + i] = static_cast<int32_t>(length + i);
    }
    for (int64_t p = 0; p < table_width_; ++p) {
      in.block_tables[S * table_width_ + p] =
          static_cast<int32_t>(p < pages ? number * pages + p : 0);
    }
    if (!in.state_slots.empty()) in.state_slots[S] = static_cast<int32_t>(number);
    T += n;
    in.kv_lens[S] = static_cast<int32_t>(length + n);
    in.logit_rows[S] = static_cast<int32_t>(T - 1);
    in.seq_starts[++S] = static_cast<int32_t>(T);
    R = S;
  }

  void finish_step(bool decode) {
    if (options_.uniform_routing) force_uniform();
    session_.run_step(decode, sizes_);
    std::vector<int64_t> rows;
    for (int g = 0; g < session_.groups(); ++g) {
      rows.push_back(sizes_[static_cast<size_t>(g)].R);
      auto fill = [&](const char* role, auto value) {
        auto port = session_.input_as<decltype(value)>(role, g);
        std::fill(port.begin(), port.begin() + rows.back(), value);
      };
      fill("temperature", 0.0f);
      fill("top_k", int32_t{0});
      fill("top_p", 1.0f);
      fill("uniform", 0.0f);
    }
    session_.run_sample(rows);
    (void)session_.output_as<int32_t>("ids", session_.group_rows() * session_.groups());
  }

  /// k distinct experts for every token and layer, each set equally likely.
  void force_uniform() {
    const ModelInfo& m = session_.plan().model;
    std::vector<int32_t> experts(m.experts);
    std::iota(experts.begin(), experts.end(), 0);
    for (const Port& p : session_.plan().ports) {
      if (!p.role.starts_with("forced.")) continue;
      for (int g = 0; g < session_.groups(); ++g) {
        auto forced = session_.input_as<int32_t>(p.role, g);
        for (int64_t t = 0; t < sizes_[static_cast<size_t>(g)].T; ++t) {
          for (int64_t j = 0; j < m.experts_per_token; ++j) {
            std::swap(experts[j], experts[j + random_() % (m.experts - j)]);
            forced[t * m.experts_per_token + j] = experts[j];
          }
        }
      }
    }
  }

  Session& session_;
  const BenchCase& what_;
  const BenchOptions& options_;
  const Limits& limits_;
  int64_t table_width_;
  std::vector<StepSizes> sizes_;  // of the step in the making, by dp group
  std::vector<Inputs> inputs_;
  std::mt19937 random_{1234};
};

struct WeightBytes {
  double dense =
      0;  // read by every step: all but experts and, where the head is its own, the embedding table
  double one_expert = 0;  // of one layer: gate, up and down of one expert, averaged over the layers
};

WeightBytes weight_bytes(const Plan& plan) {
  WeightBytes w;
  const bool own_head = std::any_of(plan.buffers.begin(), plan.buffers.end(), [](const Buffer& b) {
    return b.arena == Arena::weights && b.name == "lm_head";
  });
  for (const Buffer& b : plan.buffers) {
    if (b.arena != Arena::weights || (own_head && b.name == "embedding")) continue;
    if (b.type.rank() == 3) {
      w.one_expert +=
          static_cast<double>(b.bytes) / static_cast<double>(b.type.shape[0].constant());
    } else {
      w.dense += static_cast<double>(b.bytes);
    }
  }
  if (plan.model.moe_layers > 0) w.one_expert /= static_cast<double>(plan.model.moe_layers);
  return w;
}

/// Flops of a rank's matmuls and attention in one step; attention's own figure is for full block
/// tables and is scaled down to the mean number of keys, that of experts is for all routes, of
/// which a rank has its part.
double flops_of(const Plan& plan, const Program& program, const StepSizes& sizes, double keys) {
  const DimEnv env = {{"T", sizes.T}, {"S", sizes.S}, {"R", sizes.R}};
  const Limits& limits = plan.limits;
  const double full =
      static_cast<double>((limits.max_model_len + limits.page_size - 1) / limits.page_size) *
      static_cast<double>(limits.page_size);
  double flops = 0;
  for (const Step& s : program.steps) {
    const auto f = static_cast<double>(s.flops.evaluate(env));
    const bool experts =
        s.name.starts_with("routed_linear") || s.name.starts_with("grouped_linear");
    flops += s.name.starts_with("attention") ? f * keys / full : experts ? f / plan.mesh.ep : f;
  }
  return flops;
}

/// What a rank of the plan's mesh has to read and compute at least: of the sequences its dp group's
/// part, of the experts its own.
void fill_floor(Session& session, const BenchCase& what, BenchResult& r) {
  const Plan& plan = session.plan();
  const Target& target = find_target(plan.target);
  const WeightBytes w = weight_bytes(plan);
  const auto layers = static_cast<double>(plan.model.moe_layers);
  const auto ep = static_cast<double>(plan.mesh.ep);
  const int64_t b = plan.mesh.group_batch(what.batch);
  const double context = static_cast<double>(what.prompt) + static_cast<double>(what.decode) / 2;
  const double kv = static_cast<double>(plan.page_bytes()) /
                    static_cast<double>(plan.limits.page_size) * context * static_cast<double>(b);
  const double slots = 2 * static_cast<double>(plan.slot_bytes() * b);  // read, written
  r.decode_bytes = w.dense + layers * r.distinct_experts / ep * w.one_expert + kv + slots;
  r.decode_flops = flops_of(plan, session.step_program(true, b, b, b), {b, b, b}, context);
  const double decode_floor = std::max(r.decode_bytes / target.memory_bytes_per_s,
                                       r.decode_flops / target.matmul_flops_per_s);
  r.decode_roofline_share = decode_floor / r.step_seconds;

  const int64_t chunk = std::min(what.prompt * b, plan.limits.max_num_batched_tokens);
  const double chunks = static_cast<double>(what.prompt * b) / static_cast<double>(chunk);
  const int64_t rows = std::min(b, plan.limits.max_num_seqs);
  r.prefill_flops = chunks * flops_of(plan, session.step_program(false, chunk, rows, rows),
                                      {chunk, rows, rows}, static_cast<double>(what.prompt) / 2);
  // A chunk touches, of each layer, as many experts as it has routes, at most all.
  const double touched =
      std::min<double>(static_cast<double>(plan.model.experts),
                       static_cast<double>(chunk * plan.mesh.dp * plan.model.experts_per_token));
  const double bytes = chunks * (w.dense + layers * touched / ep * w.one_expert);
  const double prefill_floor =
      std::max(bytes / target.memory_bytes_per_s, r.prefill_flops / target.matmul_flops_per_s);
  r.prefill_roofline_share = prefill_floor / r.prefill_seconds;
}

}  // namespace

int64_t bench_pages(const Limits& limits, const BenchCase& what) {
  return (what.prompt + what.decode + limits.page_size - 1) / limits.page_size * what.batch;
}

void check_bench(const Plan& plan, const BenchCase& what, const BenchOptions& options) {
  if (what.prompt + what.decode > plan.limits.max_model_len ||
      what.batch > plan.limits.max_num_seqs) {
    user_error(
        "bench of {} + {} tokens in {} sequences: the plan allows {} tokens and {} sequences "
        "(compile with --max-model-len and --max-num-seqs)",
        what.prompt, what.decode, what.batch, plan.limits.max_model_len, plan.limits.max_num_seqs);
  }
  if (options.uniform_routing && plan.find_port("forced.0") < 0) {
    user_error(
        "--routing uniform: the plan has no forced-routing inputs; bench the model directory "
        "instead");
  }
}

BenchResult run_bench(Session& session, const BenchCase& what, const BenchOptions& options) {
  check_bench(session.plan(), what, options);
  BenchResult r;
  r.what = what;
  Loop loop(session, what, options);
  std::vector<double> prefill, decode, steps;
  for (int64_t rep = -1; rep < options.repetitions; ++rep) {  // the first is a warm-up
    const double seconds = loop.prefill();
    std::vector<double> mine;
    const double start = now();
    for (int64_t i = 0; i < what.decode; ++i) mine.push_back(loop.decode_step(what.prompt + i));
    const double total = now() - start;
    if (options.on_progress)
      options.on_progress(fmt::format("repetition {} of {}", rep + 1, options.repetitions));
    if (rep < 0) continue;
    prefill.push_back(seconds);
    decode.push_back(static_cast<double>(what.decode * what.batch) / total);
    steps.insert(steps.end(), mine.begin(), mine.end());
  }
  const std::vector<RouteCounts> before = session.route_counts();
  loop.decode_step(what.prompt + what.decode - 1);
  r.distinct_experts = distinct_experts(before, session.route_counts());
  r.prefill_seconds = spread_of(prefill).median;
  for (double& s : prefill) s = static_cast<double>(what.prompt * what.batch) / s;
  r.prefill_tokens_per_s = spread_of(prefill);
  r.decode_tokens_per_s = spread_of(decode);
  r.step_seconds = spread_of(steps).median;
  fill_floor(session, what, r);
  return r;
}

}  // namespace shunt
