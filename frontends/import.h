// The parts of import_model(): what the fuzzer drives with bytes of its own, and what
// explain_model() repeats.
#pragma once

#include <optional>

#include "frontends/deepspeed/shards.h"
#include "frontends/frontend.h"
#include "frontends/hf/registry.h"

namespace shunt {

/// The files of a model directory that describe it, opened and not yet understood.
struct ModelDescription {
  /// `checkpoint` nullptr: dummy weights. It must outlive this.
  ModelDescription(const FrontendOptions& options, const Checkpoint* checkpoint);
  ModelDescription(const ModelDescription&) = delete;

  /// What `config` (this one, or a variation of it) says.
  Architecture read(const hf::Config& config) const;

  bool is_deepspeed;
  hf::Config config;
  deepspeed::CheckpointSpec spec;           // of DeepSpeed
  std::optional<deepspeed::Shards> shards;  // of DeepSpeed, with a checkpoint; refers to spec
};

/// Reads generation_config.json too where options.model_dir has one.
ModelFacts read_facts(const hf::Config& config, const FrontendOptions& options,
                      const Architecture& arch);

/// Imports `config` as a model of `family`, whatever its model_type says. generation_config.json is
/// looked for in options.model_dir.
ImportedModel import_config(const hf::Config& config, const hf::Family& family,
                            const FrontendOptions& options, const Checkpoint* checkpoint);

}  // namespace shunt
