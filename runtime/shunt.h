// Shunt's public C++ interface: load a plan and generate text. Include this, link `shunt_runtime`.
//
//   #include <cstdio>
//   #include "runtime/shunt.h"
//
//   int main(int argc, char** argv) {
//     shunt::Model model(argv[1]);  // a plan directory made by `shunt compile`
//     shunt::GenerateOptions options;
//     options.max_tokens = 64;
//     model.generate(argc > 2 ? argv[2] : "Once upon a time", options, [](std::string_view text) {
//       std::fwrite(text.data(), 1, text.size(), stdout);
//       return true;  // false ends the generation
//     });
//   }
//
// Errors are exceptions (ir/error.h): UserError says what is wrong with the input and what to do,
// DeviceError that a GPU failed, InternalError that Shunt has a bug. To compile a model directory
// from C++, see tools/driver.h; for batches, cancellation and token ids, see engine() and
// runtime/engine/engine.h.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/engine/tokenizer.h"
#include "runtime/ranks.h"

namespace shunt {

using LoadOptions = SessionOptions;
using GenerateOptions = SamplingParams;

/// A plan in memory with its tokenizer. Used by one thread at a time; several models in one process
/// are independent.
class Model {
 public:
  /// Loads `plan_directory`: kernels, and weights from the model directory the plan was compiled
  /// from (or options.model_directory). A plan for several ranks runs on as many GPUs (cpu:
  /// threads) of this process. Throws UserError or DeviceError.
  explicit Model(const std::filesystem::path& plan_directory, LoadOptions options = {});
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  /// Called with the text as it comes, whole UTF-8 characters at a time; false ends the generation.
  using TextCallback = std::function<bool(std::string_view text)>;
  /// Continues `prompt` and returns the continuation. Special tokens give no text.
  std::string generate(std::string_view prompt, const GenerateOptions& options = {},
                       const TextCallback& on_text = {});
  /// Continues several prompts in one batch. With temperature above 0, prompt i uses seed + i.
  std::vector<std::string> generate(const std::vector<std::string>& prompts,
                                    const GenerateOptions& options = {});

  /// False once the device has failed: nothing can be generated any more.
  bool alive() const { return session().alive(); }
  /// Alive, and a new request would start at the next step instead of waiting for another to end.
  bool ready() const;

  const Plan& plan() const { return session().plan(); }
  /// Throws UserError if the model directory has no tokenizer.json (plans with dummy weights).
  const Tokenizer& tokenizer();
  Engine& engine() { return *engine_; }
  Session& session() const { return ranks_->session(); }

 private:
  std::filesystem::path model_directory_;
  std::unique_ptr<Ranks> ranks_;
  std::unique_ptr<Engine> engine_;
  std::optional<Tokenizer> tokenizer_;
};

}  // namespace shunt
