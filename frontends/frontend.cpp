// A Hugging Face model directory becomes a logical module. Entry point: import_model. Tested by
// tests/frontends/frontend_test.cpp; fuzzed by tests/fuzz/fuzz_config.cpp.
#include "frontends/frontend.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <set>

#include "frontends/builder.h"
#include "frontends/checkpoint_names.h"
#include "frontends/import.h"
#include "ir/error.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt {

namespace {

constexpr int64_t kMaxBatch = 1 << 20;   // tokens or sequences of a step
constexpr int64_t kMaxRoutes = 1 << 30;  // tokens * experts a token: their indices are 32 bits
constexpr int64_t kMaxPage = 1 << 16;

void check_limit(const char* name, int64_t value, int64_t max) {
  if (value < 0 || value > max) user_error("{} = {} is outside 1 ... {}", name, value, max);
}

FrontendLimits choose_limits(const FrontendOptions& o, int64_t max_positions,
                             int64_t experts_per_token) {
  if (o.max_model_len > max_positions) {
    user_error(
        "max-model-len {} is more than the {} positions of the model (max_position_embeddings in "
        "{})",
        o.max_model_len, max_positions, (o.model_dir / "config.json").string());
  }
  check_limit("max-model-len", o.max_model_len, max_positions);
  check_limit("max-num-seqs", o.max_num_seqs, kMaxBatch);
  check_limit("max-num-batched-tokens", o.max_num_batched_tokens, kMaxBatch);
  check_limit("max-logit-rows", o.max_logit_rows, kMaxBatch);
  check_limit("page-size", o.page_size, kMaxPage);
  if (o.page_size == 0) user_error("page-size = 0 is outside 1 ... {}", kMaxPage);
  FrontendLimits l;
  l.page_size = o.page_size;
  l.max_model_len = o.max_model_len > 0 ? o.max_model_len : std::min<int64_t>(max_positions, 8192);
  const int64_t tokens = o.max_num_batched_tokens;
  l.max_num_seqs = o.max_num_seqs > 0 ? o.max_num_seqs
                   : tokens > 0       ? std::min<int64_t>(64, tokens)
                                      : 64;
  l.max_num_batched_tokens = tokens > 0 ? tokens : std::max<int64_t>(2048, l.max_num_seqs);
  l.max_logit_rows = o.max_logit_rows > 0 ? o.max_logit_rows : l.max_num_seqs;
  if (l.max_num_batched_tokens < l.max_num_seqs) {
    user_error(
        "max-num-batched-tokens {} is less than max-num-seqs {}: every sequence needs a token a "
        "step",
        l.max_num_batched_tokens, l.max_num_seqs);
  }
  if (l.max_num_batched_tokens * experts_per_token > kMaxRoutes) {
    user_error("max-num-batched-tokens {} with {} experts a token is more than {} routes a step",
               l.max_num_batched_tokens, experts_per_token, kMaxRoutes);
  }
  l.max_logit_rows = std::min(l.max_logit_rows, l.max_num_batched_tokens);
  return l;
}

DType choose_activation(const FrontendOptions& o, const Architecture& arch,
                        const Checkpoint* checkpoint) {
  if (o.dtype != "auto" && o.dtype != "bf16" && o.dtype != "f16" && o.dtype != "f32") {
    user_error("dtype '{}' is none of auto, bf16, f16 and f32", o.dtype);
  }
  if (o.cpu) return DType::f32;
  if (o.dtype != "auto") return *parse_dtype(o.dtype);
  DType dtype = arch.config_dtype;
  if (checkpoint != nullptr) {
    if (const TensorInfo* table = checkpoint->find(arch.names.embedding)) dtype = table->dtype;
  }
  return dtype == DType::f16 ? DType::f16 : DType::bf16;
}

/// End-of-sequence ids of config.json and, where there is one, generation_config.json. Ids outside
/// the vocabulary (small test models keep those of the large one) can never be produced and are
/// dropped.
std::vector<int64_t> read_eos(const hf::Config& config, const std::filesystem::path& dir,
                              int64_t vocab_size) {
  std::set<int64_t> ids;
  const auto add = [&](const std::vector<int64_t>& more) {
    std::copy_if(more.begin(), more.end(), std::inserter(ids, ids.end()),
                 [&](int64_t id) { return id >= 0 && id < vocab_size; });
  };
  add(config.integers({"eos_token_id"}));
  const std::filesystem::path generation = dir / "generation_config.json";
  if (std::filesystem::exists(generation))
    add(hf::Config::read(generation).integers({"eos_token_id"}));
  return {ids.begin(), ids.end()};
}

std::string remark(const std::string& what, const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  const std::vector<std::string> shown(names.begin(),
                                       names.begin() + std::min(kShown, names.size()));
  return fmt::format(
      "{}: {}{}", what, fmt::join(shown, ", "),
      names.size() > kShown ? fmt::format(" and {} more", names.size() - kShown) : "");
}

/// Code in the directory, by name.
std::vector<std::string> code_files(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".py") names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

/// A tensor that would belong to the model and that its description does not know is an error; one
/// of another part (a vision tower) deserves a remark.
void check_unused(const Architecture& arch, const FrontendOptions& options,
                  const Checkpoint& checkpoint, const TensorSource* source,
                  const std::vector<std::string>& unused) {
  std::vector<std::string> own;
  std::ranges::copy_if(unused, std::back_inserter(own), [&](const std::string& name) {
    return source != nullptr || belongs_to_model(arch.names, name);
  });
  if (own.empty() || options.allow_unused_tensors) return;
  user_error(
      "{}: tensor {}{} is not used by family '{}' and could change the result; if it is no part of "
      "the model, pass --allow-unused-tensors",
      checkpoint.directory, quote_name(own[0]),
      own.size() > 1 ? fmt::format(" (and {} more)", own.size() - 1) : "", arch.family);
}

ImportedModel import_architecture(const hf::Config& config, const Architecture& description,
                                  const FrontendOptions& options, const Checkpoint* checkpoint,
                                  TensorSource* source) {
  Architecture arch = description;
  if (checkpoint != nullptr && source == nullptr) match_names(arch, *checkpoint);
  ImportedModel model;
  model.facts = read_facts(config, options, arch);
  model.ignored_keys = config.finish(arch.family);
  model.limits = choose_limits(options, arch.max_positions, model.facts.experts_per_token);
  model.activation = choose_activation(options, arch, checkpoint);
  BuiltModule built = build_module(arch, checkpoint,
                                   {model.limits, model.activation, options.force_routing, source});
  model.module = std::move(built.module);
  std::vector<std::string> unused;
  for (UnusedTensor& tensor : built.unused_tensors) {
    if (!tensor.expected) unused.push_back(tensor.tensor);
    (tensor.expected ? model.needless_tensors : model.unused_tensors).push_back(std::move(tensor));
  }
  if (checkpoint != nullptr) check_unused(arch, options, *checkpoint, source, unused);
  if (const auto code = code_files(options.model_dir); !code.empty()) {
    model.warnings.push_back(
        remark(options.model_dir.string() + ": code is never run: ignored", code));
  }
  if (!model.ignored_keys.empty()) {
    model.warnings.push_back(remark(config.file() + ": ignored", model.ignored_keys));
  }
  if (!unused.empty()) {
    model.warnings.push_back(
        remark("tensors of the checkpoint that the model does not use", unused));
  }
  return model;
}

}  // namespace

ModelFacts read_facts(const hf::Config& config, const FrontendOptions& options,
                      const Architecture& arch) {
  ModelFacts f;
  f.name = arch.family;
  f.vocab_size = arch.vocab_size;
  f.eos_ids = read_eos(config, options.model_dir, arch.vocab_size);
  const std::vector<int64_t> bos = config.integers({"bos_token_id"});
  if (!bos.empty() && bos[0] >= 0 && bos[0] < arch.vocab_size) f.bos_id = bos[0];
  f.layers = static_cast<int64_t>(arch.layers.size());
  for (const Layer& layer : arch.layers) {
    const auto* moe = std::get_if<MoeMlp>(&layer.mlp);
    if (moe == nullptr) continue;
    ++f.moe_layers;
    f.experts = std::max(f.experts, moe->experts);
    f.experts_per_token = std::max(f.experts_per_token, moe->gate.k);
  }
  return f;
}

ModelDescription::ModelDescription(const FrontendOptions& options, const Checkpoint* checkpoint)
    : is_deepspeed(!std::filesystem::exists(options.model_dir / "config.json") &&
                   std::filesystem::exists(options.model_dir / "ds_inference_config.json")),
      config(hf::Config::read(options.model_dir /
                              (is_deepspeed ? "ds_inference_config.json" : "config.json"))) {
  if (!is_deepspeed) return;
  spec = deepspeed::read_checkpoint_spec(config);
  if (checkpoint == nullptr) return;
  shards.emplace(*checkpoint, spec, config.integer({"heads"}, 1, hf::kMaxHeads));
}

Architecture ModelDescription::read(const hf::Config& c) const {
  Architecture arch = is_deepspeed ? deepspeed::read_architecture(c, shards ? &*shards : nullptr)
                                   : hf::find_family(c).read(c);
  arch.family = is_deepspeed ? "deepspeed" : c.text({"model_type"});
  return arch;
}

ImportedModel import_config(const hf::Config& config, const hf::Family& family,
                            const FrontendOptions& options, const Checkpoint* checkpoint) {
  Architecture arch = family.read(config);
  arch.family = family.model_type;
  return import_architecture(config, arch, options, checkpoint, nullptr);
}

ImportedModel import_model(const FrontendOptions& options, const Checkpoint* checkpoint) {
  SHUNT_CHECK(checkpoint != nullptr || options.dummy_weights, "import_model without a checkpoint");
  if (options.dummy_weights) checkpoint = nullptr;
  ModelDescription model(options, checkpoint);
  const Architecture arch = model.read(model.config);
  return import_architecture(model.config, arch, options, checkpoint,
                             model.shards ? &*model.shards : nullptr);
}

}  // namespace shunt
