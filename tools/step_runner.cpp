// The reference runner and the feeder of tools/step_runner.h; the plan runner is in
// step_runner_plan.cpp.
#include "tools/step_runner.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "ir/error.h"

namespace shunt {

std::vector<BatchPart> split_batch(const StepInputs& batch, int groups) {
  std::vector<BatchPart> parts(static_cast<size_t>(groups));
  const size_t sequences = batch.kv_lens.size();
  const size_t columns = sequences == 0 ? 0 : batch.block_tables.size() / sequences;
  for (BatchPart& part : parts) {
    part.inputs.decode = batch.decode;
    part.inputs.seq_starts.push_back(0);
  }
  for (size_t s = 0; s < sequences; ++s) {
    BatchPart& part = parts[static_cast<size_t>(batch.state_slots[s] % groups)];
    StepInputs& in = part.inputs;
    const auto first = static_cast<size_t>(batch.seq_starts[s]);
    const auto end = static_cast<size_t>(batch.seq_starts[s + 1]);
    for (size_t r = 0; r < batch.logit_rows.size(); ++r) {
      const auto token = static_cast<size_t>(batch.logit_rows[r]);
      if (token < first || token >= end) continue;
      in.logit_rows.push_back(static_cast<int32_t>(in.tokens.size() + token - first));
      part.rows.push_back(r);
    }
    for (size_t t = first; t < end; ++t) {
      part.tokens.push_back(t);
      in.tokens.push_back(batch.tokens[t]);
      in.positions.push_back(batch.positions[t]);
      for (const auto& [role, values] : batch.forced) {
        const size_t k = values.size() / batch.tokens.size();
        const auto row = values.begin() + static_cast<std::ptrdiff_t>(t * k);
        in.forced[role].insert(in.forced[role].end(), row, row + static_cast<std::ptrdiff_t>(k));
      }
    }
    in.seq_starts.push_back(static_cast<int32_t>(in.tokens.size()));
    in.kv_lens.push_back(batch.kv_lens[s]);
    in.state_slots.push_back(batch.state_slots[s]);
    const auto table = batch.block_tables.begin() + static_cast<std::ptrdiff_t>(s * columns);
    in.block_tables.insert(in.block_tables.end(), table,
                           table + static_cast<std::ptrdiff_t>(columns));
  }
  return parts;
}

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
