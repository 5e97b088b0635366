// The reference runner and the feeder of tools/step_runner.h; the plan runner is in
// step_runner_plan.cpp.
#include "tools/step_runner.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "ir/error.h"

namespace shunt {

SequenceFeeder::SequenceFeeder(StepRunner& runner, int64_t sequences, int64_t max_length)
    : runner_(runner), lengths_(sequences, 0) {
  const Limits& l = runner.limits();
  pages_per_seq_ = (max_length + l.page_size - 1) / l.page_size;
  table_width_ = (l.max_model_len + l.page_size - 1) / l.page_size;
  if (max_length > l.max_model_len) {
    user_error("a sequence of {} tokens does not fit --max-model-len {}", max_length,
               l.max_model_len);
  }
  if (pages_per_seq_ * sequences > runner.pages()) {
    user_error("{} sequences of {} tokens need {} KV pages, there are {}: give --kv-pages",
               sequences, max_length, pages_per_seq_ * sequences, runner.pages());
  }
  if (runner.slots() > 0 && sequences > runner.slots()) {
    user_error("{} sequences need a state slot each, there are {}: give --max-num-seqs", sequences,
               runner.slots());
  }
}

void SequenceFeeder::add_sequence(StepInputs& in, int64_t seq, std::span<const int32_t> tokens) {
  if (in.seq_starts.empty()) in.seq_starts.push_back(0);
  int64_t& length = lengths_.at(seq);
  for (int32_t token : tokens) {
    in.logit_rows.push_back(static_cast<int32_t>(in.tokens.size()));
    in.tokens.push_back(token);
    in.positions.push_back(static_cast<int32_t>(length++));
  }
  in.seq_starts.push_back(static_cast<int32_t>(in.tokens.size()));
  in.kv_lens.push_back(static_cast<int32_t>(length));
  in.state_slots.push_back(static_cast<int32_t>(seq));
  for (int64_t p = 0; p < table_width_; ++p) {
    in.block_tables.push_back(
        static_cast<int32_t>(p < pages_per_seq_ ? seq * pages_per_seq_ + p : 0));
  }
}

StepValues SequenceFeeder::append(int64_t seq, std::span<const int32_t> tokens, bool with_probes,
                                  const std::map<std::string, std::vector<int32_t>>& forced) {
  const Limits& l = runner_.limits();
  const auto most = static_cast<size_t>(std::min(l.max_num_batched_tokens, l.max_logit_rows));
  const int64_t k = runner_.forced_width();
  StepValues all;
  for (size_t at = 0; at < tokens.size(); at += most) {
    const size_t n = std::min(most, tokens.size() - at);
    StepInputs in;
    add_sequence(in, seq, tokens.subspan(at, n));
    for (const auto& [name, rows] : forced) {
      in.forced[name].assign(rows.begin() + at * k, rows.begin() + (at + n) * k);
    }
    StepValues step = runner_.run(in, with_probes);
    const auto join = [](Matrix& to, Matrix&& part) {
      to.cols = part.cols;
      to.rows += part.rows;
      to.data.insert(to.data.end(), part.data.begin(), part.data.end());
    };
    join(all.logits, std::move(step.logits));
    for (auto& [name, m] : step.probes) join(all.probes[name], std::move(m));
  }
  return all;
}

StepValues SequenceFeeder::decode(std::span<const int32_t> tokens, bool with_probes,
                                  const std::map<std::string, std::vector<int32_t>>& forced) {
  StepInputs in;
  in.decode = true;
  for (size_t i = 0; i < tokens.size(); ++i)
    add_sequence(in, static_cast<int64_t>(i), tokens.subspan(i, 1));
  in.forced = forced;
  return runner_.run(in, with_probes);
}

StepValues SequenceFeeder::append_batch(const std::vector<std::span<const int32_t>>& tokens,
                                        bool with_probes,
                                        const std::map<std::string, std::vector<int32_t>>& forced) {
  StepInputs in;
  for (size_t i = 0; i < tokens.size(); ++i) add_sequence(in, static_cast<int64_t>(i), tokens[i]);
  in.forced = forced;
  return runner_.run(in, with_probes);
}

}  // namespace shunt
