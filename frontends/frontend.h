// The frontends' public API: a model directory in, a logical module out.
//
// import_model() reads config.json (and generation_config.json where there is one) of a Hugging
// Face model directory and builds the graphs @load, @step and @sample. It reads no weights: of the
// checkpoint only the names, element types and shapes matter here, and every one is checked. All
// errors in the input are UserErrors that name the file and the key or tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "ir/module.h"

namespace shunt {

class Checkpoint;

struct FrontendOptions {
  std::filesystem::path model_dir;
  /// Element type of activations and KV states: "auto", "bf16", "f16" or "f32". "auto" is that of
  /// the checkpoint's embedding table if it is bf16 or f16; a float32 checkpoint runs in bf16.
  /// Weights keep their own types.
  std::string dtype = "auto";
  /// For the cpu target, which computes and stores all activations, KV and logits in float32:
  /// `dtype` is ignored.
  bool cpu = false;
  // Limits; 0 takes the default.
  int64_t max_model_len = 0;           // min(config's max_position_embeddings, 8192)
  int64_t max_num_seqs = 0;            // 64, or max_num_batched_tokens if that is given and smaller
  int64_t max_num_batched_tokens = 0;  // 2048, or max_num_seqs if that is larger
  int64_t max_logit_rows = 0;          // max_num_seqs; never above max_num_batched_tokens
  int64_t page_size = 64;              // tokens of a page of KV state
  /// Parameters are random numbers of the config's dtype; no checkpoint is needed.
  bool dummy_weights = false;
  /// Tensors that lie among the model's own and that nothing asks for are no error.
  bool allow_unused_tensors = false;
  /// Adds an input forced.N : i32[T, k] for MoE layer N. Row t with forced.N[t, 0] >= 0 is routed
  /// to these experts.
  bool force_routing = false;
};

struct FrontendLimits {
  int64_t max_model_len = 0;
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t max_logit_rows = 0;
  int64_t page_size = 0;
};

/// What the engine needs to know of the model besides the graph.
struct ModelFacts {
  std::string name;  // model_type
  int64_t vocab_size = 0;
  std::vector<int64_t>
      eos_ids;  // of config.json and generation_config.json; ascending, inside the vocabulary
  int64_t bos_id = -1;  // -1: none
  int64_t layers = 0;
  int64_t experts = 0;  // of the largest MoE layer; 0 for a dense model
  int64_t experts_per_token = 0;
  int64_t moe_layers = 0;
};

struct UnusedTensor {
  std::string tensor;
  std::string why;        // it is not used
  bool expected = false;  // and deserves no remark: frameworks save such tensors needlessly
};

struct ImportedModel {
  std::unique_ptr<ir::Module> module;
  ModelFacts facts;
  DType activation = DType::bf16;
  FrontendLimits limits;
  std::vector<std::string>
      ignored_keys;  // of config.json: known to have no effect on inference, worth a remark
  // Of the checkpoint, read by nothing: those that deserve a remark, and those that frameworks save
  // needlessly.
  std::vector<UnusedTensor> unused_tensors, needless_tensors;
  /// One line each, for people: what of the above deserves a remark.
  std::vector<std::string> warnings;
};

/// `checkpoint` may be nullptr only with options.dummy_weights.
ImportedModel import_model(const FrontendOptions& options, const Checkpoint* checkpoint);

}  // namespace shunt
