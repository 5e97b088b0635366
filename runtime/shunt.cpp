// Text in, text out: the public interface over Session, Engine and Tokenizer. Entry point
// Model::generate(); tested by tests/runtime/engine/shunt_test.cpp.
#include "runtime/shunt.h"

#include "ir/error.h"

namespace shunt {

Model::Model(const std::filesystem::path& plan_directory, LoadOptions options) {
  Plan plan = load_plan(plan_directory);
  model_directory_ = options.model_directory.empty() ? std::filesystem::path(plan.model_directory)
                                                     : options.model_directory;
  RanksOptions ranks;
  ranks.session = std::move(options);
  ranks_ = std::make_unique<Ranks>(std::move(plan), plan_directory, std::move(ranks));
  engine_ = std::make_unique<Engine>(session());
}

Model::~Model() {
  engine_.reset();
  try {
    ranks_->finish();
  } catch (const Error&) {  // a rank failed: the others have ended by that
  }
}

bool Model::ready() const {
  return alive() && engine_->unfinished() < session().plan().limits.max_num_seqs;
}

const Tokenizer& Model::tokenizer() {
  if (!tokenizer_) {
    if (model_directory_.empty()) {
      user_error("the plan was compiled with dummy weights and has no tokenizer: use token ids");
    }
    tokenizer_ = Tokenizer::from_file(model_directory_ / "tokenizer.json");
  }
  return *tokenizer_;
}

std::string Model::generate(std::string_view prompt, const GenerateOptions& options,
                            const TextCallback& on_text) {
  std::string all;
  StreamDecoder decoder(tokenizer(), /*skip_special=*/true);
  int64_t id = 0;
  bool wanted = true;
  std::vector<int32_t> ids = tokenizer().encode(prompt);
  decoder.start_after(ids);
  id = engine_->submit(std::move(ids), options, [&](const TokenEvent& e) {
    std::string text = e.token >= 0 ? decoder.push(e.token) : "";
    if (e.finished) text += decoder.finish();
    if (text.empty() || !wanted) return;
    all += text;
    wanted = !on_text || on_text(text);
    if (!wanted && !e.finished) engine_->cancel(id);
  });
  try {
    engine_->run_until_done();
  } catch (...) {
    engine_->cancel(id);  // its callback refers to this call's variables
    throw;
  }
  return all;
}

std::vector<std::string> Model::generate(const std::vector<std::string>& prompts,
                                         const GenerateOptions& options) {
  std::vector<std::vector<int32_t>> ids;  // all are encoded before the first is submitted
  for (const std::string& prompt : prompts) ids.push_back(tokenizer().encode(prompt));
  std::vector<StreamDecoder> decoders;
  for (const auto& prompt : ids) {
    decoders.emplace_back(tokenizer(), /*skip_special=*/true).start_after(prompt);
  }
  std::vector<std::string> texts(prompts.size());
  std::vector<int64_t> requests;
  const auto cancel_all = [&] {
    for (const int64_t id : requests) engine_->cancel(id);
  };
  try {
    for (size_t i = 0; i < prompts.size(); ++i) {
      GenerateOptions mine = options;
      mine.seed += i;
      requests.push_back(engine_->submit(std::move(ids[i]), mine, [&, i](const TokenEvent& e) {
        if (e.token >= 0) texts[i] += decoders[i].push(e.token);
      }));
    }
    engine_->run_until_done();
  } catch (...) {
    cancel_all();
    throw;
  }
  for (size_t i = 0; i < texts.size(); ++i) texts[i] += decoders[i].finish();
  return texts;
}

}  // namespace shunt
