// shunt run PLAN|MODEL_DIR -p TEXT...: generate and stream text (or ids). One prompt streams as it
// comes; several run in one batch and are printed as each finishes.
#include <charconv>
#include <chrono>
#include <csignal>
#include <optional>
#include <sstream>

#include "ir/error.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/tokenizer.h"
#include "tools/cli.h"

namespace shunt::cli {

namespace {

struct Flags {
  CompileFlags compile;
  RankOptions ranks;
  std::vector<std::string> prompts;
  std::string prompt_file;
  RouteTraceOptions trace;
  int64_t tokens = 128, kv_pages = 0, top_k = 0;
  double temperature = 0, top_p = 1;
  uint64_t seed = 0;
  bool ids = false, sealed = false, ignore_eos = false, quiet = false;
  int threads = 0;
};

volatile std::sig_atomic_t g_interrupted = 0;  // Ctrl-C ends generation at the next step

/// "1,2,3" for --ids.
std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> out;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto skip_spaces = [&] {
    while (at < end && *at == ' ') ++at;
  };
  for (skip_spaces(); at < end; skip_spaces()) {
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    at = next;
    skip_spaces();
    const bool more = at < end && *at == ',';
    at += more;
    if (error != std::errc() || (at < end) != more)
      user_error("--ids: '{}' is not a list of token ids like 1,2,3", text);
    out.push_back(id);
  }
  return out;
}

/// One request's output: streamed at once, or kept until it is done.
struct Output {
  std::optional<StreamDecoder> decoder;  // none with --ids
  std::string text;
  bool done = false;
  FinishReason reason = FinishReason::none;

  std::string piece(const TokenEvent& e) {
    if (e.token < 0) return "";
    if (!decoder) return fmt::format("{}{}", e.index == 0 ? "" : ",", e.token);
    return decoder->push(e.token);
  }
};

/// Those of -p, then those of -f: a line each, empty lines left out.
void read_prompts(Flags& f) {
  if (!f.prompt_file.empty()) {
    std::istringstream lines(read_text(f.prompt_file));
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (!line.empty()) f.prompts.push_back(line);
    }
  }
  if (!f.prompts.empty()) return;
  if (!f.prompt_file.empty()) user_error("{} has no prompts", f.prompt_file);
  user_error(
      "there is no prompt: give --prompt TEXT, or --prompt-file FILE with one a line "
      "(see `shunt run -h`)");
}

std::filesystem::path plan_directory(const Flags& f) {
  f.compile.check_input();
  if (is_plan_directory(f.compile.input)) return f.compile.input;
  if (f.sealed)
    user_error("--sealed needs a plan: make one with `shunt compile {} -o PLAN`", f.compile.input);
  return f.compile.plan_directory();
}

class Runner {
 public:
  Runner(const Flags& flags, const std::filesystem::path& directory)
      : flags_(flags),
        ranks_(load(directory), directory, flags.ranks.resolved(session_options())),
        session_(ranks_.session()) {
    if (!ranks_.leads()) return;
    engine_.emplace(session_);
    progress_.clear();
    const Plan& plan = session_.plan();
    if (!flags_.ids) tokenizer_ = Tokenizer::from_file(tokenizer_path(plan));
  }

  int run() {
    if (!ranks_.leads()) {
      ranks_.follow();
      return 0;
    }
    RouteTrace trace(flags_.trace, [this] { return session_.route_counts(); });
    outputs_.resize(flags_.prompts.size());
    int64_t prompt_tokens = 0;
    for (size_t i = 0; i < flags_.prompts.size(); ++i) {
      if (tokenizer_) outputs_[i].decoder.emplace(*tokenizer_, /*skip_special=*/true);
      prompt_tokens += submit(i);
    }
    std::signal(SIGINT, [](int) { g_interrupted = 1; });
    const auto start = std::chrono::steady_clock::now();
    if (streaming() && tokenizer_) write(flags_.prompts[0]);
    while (engine_->step()) {
      trace.advance(engine_->stats().prompt_tokens + engine_->stats().generated_tokens);
      if (g_interrupted == 0) continue;
      for (int64_t id : requests_) engine_->cancel(id);
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (streaming()) write("\n");
    if (!flags_.quiet) {
      const EngineStats& s = engine_->stats();
      fmt::print(stderr, "{} prompt tokens, {} generated in {:.3f} s: {:.1f} tokens/s ({})\n",
                 prompt_tokens, s.generated_tokens, seconds,
                 static_cast<double>(s.generated_tokens) / seconds, session_.plan().target);
    }
    trace.finish();
    ranks_.finish();
    return g_interrupted == 0 ? 0 : 130;
  }

 private:
  Plan load(const std::filesystem::path& directory) const {
    Plan plan = flags_.compile.load(directory);
    check_route_trace(flags_.trace, plan, flags_.ranks.resolved({}).launch.rank);
    return plan;
  }

  bool streaming() const { return flags_.prompts.size() == 1; }

  /// Returns the prompt's tokens. Among several prompts, an error says which one it is about.
  int64_t submit(size_t i) {
    try {
      std::vector<int32_t> ids =
          tokenizer_ ? tokenizer_->encode(flags_.prompts[i]) : parse_ids(flags_.prompts[i]);
      if (tokenizer_) outputs_[i].decoder->start_after(ids);
      const auto count = static_cast<int64_t>(ids.size());
      requests_.push_back(engine_->submit(std::move(ids), params(i),
                                          [this, i](const TokenEvent& e) { on_token(i, e); }));
      return count;
    } catch (const UserError& e) {
      if (streaming()) throw;
      throw UserError(fmt::format("prompt {}: {}", i, e.what()), e.kind());
    }
  }

  SessionOptions session_options() {
    SessionOptions o;
    o.kv_pages = flags_.kv_pages;
    o.model_directory = flags_.compile.model_dir;
    o.threads = flags_.threads;
    o.progress = [this](int64_t done, int64_t total) {
      progress_.show(fmt::format("loading {} of {}", human_bytes(done), human_bytes(total)));
    };
    return o;
  }

  std::filesystem::path tokenizer_path(const Plan& plan) const {
    std::filesystem::path model = flags_.compile.input;
    if (is_plan_directory(model))
      model = flags_.compile.model_dir.empty() ? plan.model_directory : flags_.compile.model_dir;
    const auto path = model / "tokenizer.json";
    if (model.empty() || !std::filesystem::exists(path)) {
      user_error("{}: no tokenizer.json: give token ids with --ids -p 1,2,3", model.string());
    }
    return path;
  }

  SamplingParams params(size_t i) const {
    SamplingParams p;
    p.temperature = flags_.temperature;
    p.top_k = flags_.top_k;
    p.top_p = flags_.top_p;
    p.seed = flags_.seed + i;
    p.max_tokens = flags_.tokens;
    p.ignore_eos = flags_.ignore_eos;
    return p;
  }

  void on_token(size_t i, const TokenEvent& e) {
    Output& out = outputs_[i];
    std::string piece = out.piece(e);
    if (e.finished && out.decoder) piece += out.decoder->finish();
    if (streaming()) return write(piece);
    out.text += piece;
    if (e.finished) {
      write(fmt::format("[{}] {}{}\n", i, tokenizer_ ? flags_.prompts[i] : "", out.text));
    }
  }

  static void write(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  const Flags& flags_;
  Progress progress_;
  Ranks ranks_;
  Session& session_;
  std::optional<Engine> engine_;
  std::optional<Tokenizer> tokenizer_;
  std::vector<Output> outputs_;
  std::vector<int64_t> requests_;
};

}  // namespace

void add_run(CLI::App& app, Command& slot) {
  auto f = std::make_shared<Flags>();
  CLI::App* c = add_command(
      app, "run", "Generate text; a model directory is compiled into the cache first.", slot, [f] {
        read_prompts(*f);
        return Runner(*f, plan_directory(*f)).run();
      });
  c->add_option("PLAN|MODEL_DIR", f->compile.input, "plan or model directory")->required();
  c->add_option("-p,--prompt", f->prompts, "prompt; several make a batch")->default_str("");
  c->add_option("-f,--prompt-file", f->prompt_file, "file with more prompts, one a line");
  f->compile.add_to(c);
  f->compile.add_model_dir(c);
  f->ranks.add_to(c);
  c->add_option("-n,--tokens", f->tokens, "tokens to generate at most")
      ->check(in_range(1, 1 << 24));
  c->add_option("--temperature", f->temperature, "0: greedy");
  c->add_option("--top-k", f->top_k, "sample among the k likeliest tokens (0: all)");
  c->add_option("--top-p", f->top_p, "sample among the likeliest tokens of this total probability");
  c->add_option("--seed", f->seed, "of sampling; prompt i uses seed + i")
      ->check(in_range(0, INT64_MAX));
  c->add_option("--kv-pages", f->kv_pages, "pages of KV state (0: what memory allows)");
  c->add_option("--threads", f->threads, "threads of the cpu target (0: all cores)")
      ->check(in_range(0, 4096));
  c->add_flag("--ids", f->ids, "prompts are token ids (1,2,3), and ids are printed");
  add_route_trace(c, f->trace);
  c->add_flag("--sealed", f->sealed, "compile and tune nothing at load: the input must be a plan");
  c->add_flag("--ignore-eos", f->ignore_eos, "go on after an end-of-sequence token");
  c->add_flag("--quiet,-q", f->quiet, "no statistics on stderr");
}

}  // namespace shunt::cli
