// Scheduling, sampling and stop rules. Entry points submit() and step(); tested by
// tests/runtime/engine/engine_test.cpp and, with a trained model, by the tests of storyteller.
#include "runtime/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ir/error.h"
#include "ir/random.h"

namespace shunt {

struct Engine::Request {
  int64_t id = 0;
  std::vector<int32_t> tokens;  // prompt, then what was generated
  int64_t prompt_size = 0;
  int64_t limit = 0;     // tokens.size() may not exceed it
  int64_t computed = 0;  // tokens whose state is in the pages
  int group = 0;         // dp group that it runs in
  KvPages::List pages;
  KvPages::List slot;  // of slot states; one while it runs, where the plan has them
  SamplingParams params;
  TokenCallback callback;
  bool finished = false;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t pending() const { return size() - computed; }
};

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::none: return "";
    case FinishReason::stop: return "stop";
    case FinishReason::length: return "length";
    case FinishReason::cancelled: return "cancelled";
  }
  return "";
}

float uniform_at(uint64_t seed, uint64_t position) {
  // Seed and position are mixed one after the other.
  return static_cast<float>(splitmix64(splitmix64(seed) ^ position) >> 40) * 0x1p-24f;
}

Engine::Engine(Session& session) : session_(session), plan_(session.plan()) {
  for (int g = 0; g < session.groups(); ++g) {
    groups_.push_back({KvPages(session.pages(), session.plan().limits.page_size), std::nullopt});
    if (session.has_port("state_slots")) groups_.back().slots.emplace(session.slots(), 1);
  }
}

int64_t Engine::free_pages() const {
  int64_t pages = 0;
  for (const Group& g : groups_) pages += g.pages.available();
  return pages;
}

Engine::Group& Engine::group_of(const Request& request) {
  return groups_[static_cast<size_t>(request.group)];
}

Engine::~Engine() = default;

// ---- requests ----

void Engine::check_prompt(std::span<const int32_t> ids) const {
  const Limits& l = plan_.limits;
  const auto size = static_cast<int64_t>(ids.size());
  if (size == 0) user_error("the prompt is empty: it needs at least one token");
  if (size > l.max_model_len) {
    user_error(
        "the prompt has {} tokens and this plan takes at most {}: shorten it, or compile with a "
        "larger "
        "--max-model-len",
        size, l.max_model_len);
  }
  for (int64_t i = 0; i < size; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    if (id < 0 || id >= plan_.model.vocab_size) {
      user_error("token {} of the prompt is id {}, outside the model's vocabulary of {}", i, id,
                 plan_.model.vocab_size);
    }
  }
}

void Engine::check_params(const SamplingParams& p) const {
  if (!(p.temperature >= 0) || !std::isfinite(p.temperature)) {
    user_error("temperature {} is not a number of 0 or more", p.temperature);
  }
  if (p.top_k < 0) user_error("top-k {} is negative (0 keeps all)", p.top_k);
  if (!(p.top_p > 0 && p.top_p <= 1)) user_error("top-p {} is not in (0, 1]", p.top_p);
  if (p.max_tokens < 0) user_error("max_tokens {} is negative", p.max_tokens);
  for (const int32_t id : p.stop_ids) {
    if (id < 0 || id >= plan_.model.vocab_size) {
      user_error("stop id {} is outside the model's vocabulary of {}", id, plan_.model.vocab_size);
    }
  }
}

int64_t Engine::submit(std::vector<int32_t> prompt, SamplingParams params, TokenCallback callback) {
  check_prompt(prompt);
  check_params(params);
  const auto size = static_cast<int64_t>(prompt.size());
  const int64_t longest = plan_.limits.max_model_len;
  if (size == longest) {
    user_error(
        "the prompt has {} tokens, which leaves no room to generate: this plan takes {} tokens of "
        "prompt and "
        "output together (compile with a larger --max-model-len)",
        size, longest);
  }
  auto request = std::make_unique<Request>();
  const int64_t room = longest - size;
  request->limit = size + (params.max_tokens == 0 ? room : std::min(room, params.max_tokens));
  // The last token is returned, not computed: it needs no row.
  const KvPages& pages = groups_[0].pages;
  if (pages.pages_for(request->limit - 1) > pages.total()) {
    user_error(
        "a request of {} tokens (prompt {}) needs {} pages of KV cache and there are {}: ask for "
        "fewer tokens "
        "or raise --kv-pages",
        request->limit, size, pages.pages_for(request->limit - 1), pages.total());
  }
  request->id = next_id_++;
  request->tokens = std::move(prompt);
  request->prompt_size = size;
  request->params = std::move(params);
  request->callback = std::move(callback);
  waiting_.push_back(std::move(request));
  return waiting_.back()->id;
}

bool Engine::cancel(int64_t id) {
  const auto cancel_in = [&](auto& list) {
    for (const auto& request : list) {
      if (request->id != id || request->finished) continue;
      finish(*request, -1, FinishReason::cancelled);
      return true;
    }
    return false;
  };
  return cancel_in(running_) || cancel_in(waiting_);
}

int64_t Engine::unfinished() const {
  const auto open = [](auto& r) { return !r->finished; };
  return std::count_if(running_.begin(), running_.end(), open) +
         std::count_if(waiting_.begin(), waiting_.end(), open);
}

/// Drops finished requests and takes their pages back. Not done at once, since callbacks run amid a
/// step.
void Engine::sweep() {
  const auto drop = [&](auto& list) {
    std::erase_if(list, [&](auto& r) {
      if (r->finished) release(*r);
      return r->finished;
    });
  };
  drop(running_);
  drop(waiting_);
}

// ---- scheduling ----

/// Takes a running request out of the batch: its pages go to others, and its state is computed
/// again later.
void Engine::preempt(Request& request) {
  release(request);
  request.computed = 0;
  ++stats_.preemptions;
  const auto it =
      std::find_if(running_.begin(), running_.end(), [&](auto& r) { return r.get() == &request; });
  waiting_.push_front(std::move(*it));
  running_.erase(it);
}

/// Gives a request its row of the slot states, whose old content its first token resets. False if
/// none is free.
bool Engine::take_slot(Request& request) {
  auto& slots = group_of(request).slots;
  return !slots || slots->grow(request.slot, 1);
}

/// Gives a request's state to others.
void Engine::release(Request& request) {
  Group& group = group_of(request);
  group.pages.release(request.pages);
  if (group.slots) group.slots->release(request.slot);
}

/// Makes room for `tokens` rows of a running request, at the cost of younger ones of its group.
/// False if it had to go itself.
bool Engine::fit(Request& request, int64_t tokens, std::vector<Share>& shares) {
  while (!group_of(request).pages.grow(request.pages, tokens)) {
    const auto last = std::find_if(running_.rbegin(), running_.rend(),
                                   [&](auto& r) { return r->group == request.group; });
    Request& youngest = **last;
    std::erase_if(shares, [&](const Share& s) { return s.request == &youngest; });
    const bool itself = &youngest == &request;
    preempt(youngest);
    if (itself) return false;
  }
  return true;
}

/// Oldest first: each running request gets as many of its pending tokens as fit, then waiting
/// requests are admitted. Requests that generate have one pending token, and keep sharing the steps
/// while prompts are computed in chunks.
std::vector<Engine::Share> Engine::schedule() {
  const Limits& limits = plan_.limits;
  const int64_t preemptions = stats_.preemptions;
  std::vector<Share> shares;
  /// What a request may still have of its group's step.
  const auto allowed = [&](const Request& r) {
    int64_t tokens = limits.max_num_batched_tokens, rows = limits.max_logit_rows;
    for (const Share& s : shares) {
      if (s.request->group != r.group) continue;
      tokens -= s.count;
      rows -= s.wants_logits;
    }
    const int64_t count = std::min(r.pending(), tokens);
    return count == r.pending() && rows == 0 ? count - 1 : count;
  };
  const auto add = [&](Request& r, int64_t count) {
    shares.push_back({&r, count, count == r.pending()});
  };
  // One token each for those that generate, before long prompts take the rest.
  for (const bool generating : {true, false}) {
    for (size_t i = 0; i < running_.size(); ++i) {
      Request& r = *running_[i];
      if ((r.pending() == 1) != generating) continue;
      const int64_t count = allowed(r);
      if (count <= 0) continue;
      if (fit(r, r.computed + count, shares)) {
        add(r, count);
      } else {
        --i;  // it was the youngest of its group, and is gone from the list
      }
    }
  }
  // Nobody is admitted while pages are short, nor before all its tokens would fit: it would be
  // preempted again at once.
  while (stats_.preemptions == preemptions && !waiting_.empty()) {
    Request& r = *waiting_.front();
    r.group = choose_group(r, shares);
    if (r.group < 0) {
      r.group = 0;
      break;
    }
    const int64_t count = allowed(r);
    if (count <= 0 || !take_slot(r)) break;
    SHUNT_CHECK(group_of(r).pages.grow(r.pages, count), "{} tokens do not fit in the free pages",
                count);
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    add(r, count);
  }
  return shares;
}

/// The group with the fewest running requests (then the most free pages) that has room for one more
/// of this size; -1 if none has.
int Engine::choose_group(const Request& request, const std::vector<Share>& shares) const {
  const auto load = [&](int g) {
    return std::count_if(running_.begin(), running_.end(), [&](auto& r) { return r->group == g; });
  };
  int best = -1;
  for (int g = 0; g < static_cast<int>(groups_.size()); ++g) {
    const KvPages& pages = groups_[static_cast<size_t>(g)].pages;
    int64_t tokens = 0;
    for (const Share& s : shares) tokens += s.request->group == g ? s.count : 0;
    const bool room = load(g) < plan_.limits.max_num_seqs &&
                      tokens < plan_.limits.max_num_batched_tokens &&
                      pages.available() >= pages.pages_for(request.size());
    if (!room) continue;
    const auto better = [&](int other) {
      const auto mine = load(g), its = load(other);
      return mine != its
                 ? mine < its
                 : pages.available() > groups_[static_cast<size_t>(other)].pages.available();
    };
    if (best < 0 || better(best)) best = g;
  }
  return best;
}

bool Engine::step() {
  sweep();
  const std::vector<Share> shares = schedule();
  if (shares.empty()) {
    SHUNT_CHECK(running_.empty() && waiting_.empty(), "requests are waiting and none can run");
    return false;
  }
  std::vector<int64_t> rows(groups_.size(), 0);
  bool decode = true;
  for (const Share& s : shares) {
    rows[static_cast<size_t>(s.request->group)] += s.wants_logits;
    decode = decode && s.count == 1;
  }
  session_.run_step(decode, fill_inputs(shares));
  ++stats_.steps;
  stats_.decode_steps += decode;
  for (const Share& s : shares) {
    const int64_t prompt_left = std::max<int64_t>(0, s.request->prompt_size - s.request->computed);
    stats_.prompt_tokens += std::min(s.count, prompt_left);
    s.request->computed += s.count;
  }
  if (std::any_of(rows.begin(), rows.end(), [](int64_t n) { return n > 0; })) sample(shares, rows);
  sweep();
  return true;
}

void Engine::run_until_done() {
  while (step()) {
  }
}

/// Writes the inputs of every group's batch; returns their sizes.
std::vector<StepSizes> Engine::fill_inputs(const std::vector<Share>& shares) {
  std::vector<StepSizes> sizes(groups_.size());
  for (int g = 0; g < static_cast<int>(groups_.size()); ++g) {
    const auto port = [&](const char* role) { return session_.input_as<int32_t>(role, g); };
    const auto token = port("tokens"), position = port("positions"), starts = port("seq_starts"),
               kv_lens = port("kv_lens"), tables = port("block_tables"),
               logit_rows = port("logit_rows");
    const KvPages& pages = groups_[static_cast<size_t>(g)].pages;
    const auto columns = static_cast<size_t>(pages.pages_for(plan_.limits.max_model_len));
    size_t t = 0, row = 0, s = 0;
    logit_rows[0] = 0;  // a step needs one row even if nobody reads it
    for (const Share& share : shares) {
      const Request& r = *share.request;
      if (r.group != g) continue;
      starts[s] = static_cast<int32_t>(t);
      for (int64_t i = 0; i < share.count; ++i, ++t) {
        token[t] = r.tokens[static_cast<size_t>(r.computed + i)];
        position[t] = static_cast<int32_t>(r.computed + i);
      }
      kv_lens[s] = static_cast<int32_t>(r.computed + share.count);
      SHUNT_CHECK(r.pages.size() <= columns, "{} pages in a block table of {}", r.pages.size(),
                  columns);
      std::copy(r.pages.begin(), r.pages.end(), tables.begin() + static_cast<int64_t>(s * columns));
      if (!r.slot.empty()) port("state_slots")[s] = r.slot[0];
      if (share.wants_logits) logit_rows[row++] = static_cast<int32_t>(t - 1);
      ++s;
    }
    starts[s] = static_cast<int32_t>(t);
    sizes[static_cast<size_t>(g)] = {static_cast<int64_t>(t), static_cast<int64_t>(s),
                                     s == 0 ? 0 : std::max<int64_t>(static_cast<int64_t>(row), 1)};
  }
  return sizes;
}

// ---- sampling and stop rules ----

void Engine::sample(const std::vector<Share>& shares, const std::vector<int64_t>& rows) {
  struct Inputs {
    std::span<float> temperature, top_p, uniform;
    std::span<int32_t> top_k;
  };
  std::vector<Inputs> inputs;
  for (int g = 0; g < static_cast<int>(groups_.size()); ++g) {
    inputs.push_back({session_.input_as<float>("temperature", g),
                      session_.input_as<float>("top_p", g), session_.input_as<float>("uniform", g),
                      session_.input_as<int32_t>("top_k", g)});
  }
  std::vector<int64_t> next(groups_.size(), 0);  // row of each group
  for (const Share& s : shares) {
    if (!s.wants_logits) continue;
    const Request& r = *s.request;
    const Inputs& in = inputs[static_cast<size_t>(r.group)];
    const auto row = static_cast<size_t>(next[static_cast<size_t>(r.group)]++);
    in.temperature[row] = static_cast<float>(r.params.temperature);
    in.top_p[row] = static_cast<float>(r.params.top_p);
    in.uniform[row] = uniform_at(r.params.seed, static_cast<uint64_t>(r.size()));
    in.top_k[row] = static_cast<int32_t>(std::min<int64_t>(r.params.top_k, plan_.model.vocab_size));
  }
  session_.run_sample(rows);
  const int64_t stride = session_.group_rows();
  const auto ids = session_.output_as<int32_t>("ids", stride * session_.groups());
  // A copy: callbacks may use the session through score().
  const std::vector<int32_t> chosen(ids.begin(), ids.end());
  std::fill(next.begin(), next.end(), 0);
  for (const Share& s : shares) {
    if (!s.wants_logits) continue;
    const int g = s.request->group;
    const int32_t id = chosen[static_cast<size_t>(g * stride + next[static_cast<size_t>(g)]++)];
    // A callback may have cancelled it meanwhile.
    if (!s.request->finished) deliver(*s.request, id);
  }
}

void Engine::deliver(Request& r, int32_t token) {
  SHUNT_CHECK(token >= 0 && token < plan_.model.vocab_size, "sampling gave id {}", token);
  r.tokens.push_back(token);
  ++stats_.generated_tokens;
  const auto& eos = plan_.model.eos_ids;
  const auto& stops = r.params.stop_ids;
  const bool stop =
      (!r.params.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) ||
      std::find(stops.begin(), stops.end(), token) != stops.end();
  if (stop) return finish(r, token, FinishReason::stop);
  if (r.size() >= r.limit) return finish(r, token, FinishReason::length);
  if (r.callback)
    r.callback({r.id, token, r.size() - r.prompt_size - 1, false, FinishReason::none});
}

void Engine::finish(Request& r, int32_t token, FinishReason reason) {
  r.finished = true;
  const int64_t generated = r.size() - r.prompt_size;
  if (r.callback) r.callback({r.id, token, token < 0 ? generated : generated - 1, true, reason});
}

// ---- scoring ----

void Engine::score(std::span<const int32_t> ids, const ScoreCallback& callback,
                   const ScoreOptions& options) {
  check_prompt(ids);
  const auto size = static_cast<int64_t>(ids.size());
  const int64_t chunk = std::min(plan_.limits.max_num_batched_tokens, plan_.limits.max_logit_rows);
  Request r;
  struct Release {  // also when a callback throws
    Engine& engine;
    Request& request;
    ~Release() { engine.release(request); }
  } release{*this, r};
  if (!take_slot(r)) {
    user_error(
        "scoring needs a free state slot and {} requests hold all of them: wait until one ends, or "
        "compile with a larger --max-num-seqs",
        groups_[0].slots->total());
  }
  KvPages& pages = groups_[0].pages;
  if (!pages.grow(r.pages, size)) {
    user_error("scoring {} tokens needs {} pages of KV cache and {} are free: raise --kv-pages",
               size, pages.pages_for(size), pages.available());
  }
  r.tokens.assign(ids.begin(), ids.end());
  for (int64_t begin = 0; begin < size; begin += chunk) {
    const int64_t count = std::min(chunk, size - begin);
    std::vector<StepSizes> sizes = fill_inputs({{&r, count, false}});
    sizes[0].R = count;
    const auto rows = session_.input_as<int32_t>("logit_rows");
    for (int64_t i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    for (const auto& [role, values] : options.forced) {
      const auto port = session_.input_as<int32_t>(role);
      const size_t k = values.size() / ids.size();
      std::copy_n(values.begin() + static_cast<int64_t>(static_cast<size_t>(begin) * k),
                  static_cast<size_t>(count) * k, port.begin());
    }
    session_.run_step(false, sizes, options.observer);
    r.computed += count;
    callback(begin, session_.output_as<float>("logits", count * plan_.model.vocab_size));
  }
  for (const auto& forced : options.forced) {
    const auto port = session_.input(forced.first);
    std::memset(port.data(), 0xff, port.size());  // off again
  }
}

std::vector<float> Engine::score(std::span<const int32_t> ids) {
  std::vector<float> all(ids.size() * static_cast<size_t>(plan_.model.vocab_size));
  score(ids, [&](int64_t row, std::span<const float> logits) {
    std::copy(logits.begin(), logits.end(), all.begin() + row * plan_.model.vocab_size);
  });
  return all;
}

}  // namespace shunt
