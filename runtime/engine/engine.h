// Requests in, tokens out. The engine packs running requests into steps (continuous batching:
// prompts are cut into chunks and share steps with requests that generate), owns the pages of
// state, samples, and applies stop rules.
//
//   shunt::Engine engine(session);
//   engine.submit(ids, {.max_tokens = 32}, [](const shunt::TokenEvent& e) { ... });
//   engine.run_until_done();
//
// What a request generates depends on its prompt, its parameters and its seed only, not on what
// else is in the batch (up to the rounding of kernels whose sums depend on the batch's shape). Used
// by one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine/kv_pages.h"
#include "runtime/session.h"

namespace shunt {

struct SamplingParams {
  double temperature = 0;  // 0: greedy
  int64_t top_k = 0;       // 0: all
  double top_p = 1;
  uint64_t seed = 0;
  int64_t max_tokens =
      0;  // 0: as many as the plan's max_model_len allows, which also bounds any other value
  std::vector<int32_t> stop_ids;  // besides the model's own end-of-sequence ids
  bool ignore_eos = false;
};

enum class FinishReason { none, stop, length, cancelled };
/// "", "stop", "length", "cancelled".
std::string_view finish_reason_name(FinishReason reason);

struct TokenEvent {
  int64_t request = 0;
  int32_t token = -1;  // -1: no token (a cancelled request's last event)
  int64_t index = 0;   // of the token among those generated
  bool finished = false;
  FinishReason reason = FinishReason::none;
};
/// Called from step(). May submit and cancel requests. A stop token is delivered too, as the last.
using TokenCallback = std::function<void(const TokenEvent&)>;

struct EngineStats {
  int64_t steps = 0, decode_steps = 0;
  int64_t prompt_tokens = 0;  // computed, recomputation after preemption included
  int64_t generated_tokens = 0;
  int64_t preemptions = 0;
};

/// For Engine::score.
struct ScoreOptions {
  StepObserver* observer = nullptr;
  /// Values of forced.N ports for all rows, i32[rows, k]; rows with -1 are not forced.
  std::map<std::string, std::vector<int32_t>> forced;
};

class Engine {
 public:
  /// `session` must outlive the engine, which alone uses it.
  explicit Engine(Session& session);
  ~Engine();

  /// Queues a request and returns its id. Throws UserError for a prompt that is empty, too long,
  /// has ids outside the vocabulary, or could never fit the pages of state; and for parameters out
  /// of range.
  int64_t submit(std::vector<int32_t> prompt, SamplingParams params, TokenCallback callback);
  /// Ends a request; its callback gets a last event without a token. False if it is not known (any
  /// more).
  bool cancel(int64_t request);

  /// Runs one step of the model for as many requests as fit. False if there is nothing to do.
  bool step();
  void run_until_done();
  /// Requests not yet finished.
  int64_t unfinished() const;
  const EngineStats& stats() const { return stats_; }
  /// Over all dp groups.
  int64_t free_pages() const;

  /// Receives logits [rows, vocab_size] of consecutive rows, the first being `row`.
  using ScoreCallback = std::function<void(int64_t row, std::span<const float> logits)>;
  /// The logits after each of `ids`, a sequence of its own from position 0, in chunks of
  /// max_logit_rows that attend to the earlier ones through the pages. Other requests keep their
  /// pages and wait. A recurrent model needs a free state slot for it: UserError while max_num_seqs
  /// requests run.
  void score(std::span<const int32_t> ids, const ScoreCallback& callback,
             const ScoreOptions& options = {});
  /// The same at once: [ids.size(), vocab_size].
  std::vector<float> score(std::span<const int32_t> ids);

 private:
  struct Request;
  /// What the ranks of one dp group have: a request stays in the group that has its state.
  struct Group {
    KvPages pages;
    std::optional<KvPages> slots;  // rows of slot states, one a running request; if there are any
  };
  /// A request's part of a step: `count` tokens from `computed` on.
  struct Share {
    Request* request;
    int64_t count;
    bool wants_logits;
  };

  void check_prompt(std::span<const int32_t> ids) const;
  void check_params(const SamplingParams& params) const;
  void sweep();
  Group& group_of(const Request& request);
  std::vector<Share> schedule();
  bool take_slot(Request& request);
  void release(Request& request);
  bool fit(Request& request, int64_t tokens, std::vector<Share>& shares);
  void preempt(Request& request);
  std::vector<StepSizes> fill_inputs(const std::vector<Share>& shares);
  void sample(const std::vector<Share>& shares, const std::vector<int64_t>& rows);
  int choose_group(const Request& request, const std::vector<Share>& shares) const;
  void deliver(Request& request, int32_t token);
  void finish(Request& request, int32_t token, FinishReason reason);

  Session& session_;
  const Plan& plan_;
  std::vector<Group> groups_;
  int64_t next_id_ = 1;
  std::deque<std::unique_ptr<Request>> waiting_;
  std::vector<std::unique_ptr<Request>> running_;  // oldest first
  EngineStats stats_;
};

/// A number in [0, 1) from a counter: the same seed and position give the same number on every
/// machine.
float uniform_at(uint64_t seed, uint64_t position);

}  // namespace shunt
