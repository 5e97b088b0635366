// import_model() after the files are found: what the fuzzer drives with bytes of its own.
#pragma once

#include "frontends/frontend.h"
#include "frontends/hf/registry.h"

namespace shunt {

/// Imports `config` as a model of `family`, whatever its model_type says. generation_config.json is
/// looked for in options.model_dir.
ImportedModel import_config(const hf::Config& config, const hf::Family& family,
                            const FrontendOptions& options, const Checkpoint* checkpoint);

}  // namespace shunt
