// Small random models: a config of any family of the registry with other sizes and options than its
// folder of tests/data/conformance, or of DeepSpeed, and a checkpoint with all tensors it needs.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "frontends/frontend.h"
#include "runtime/checkpoint/checkpoint.h"
#include "tests/frontends/model_dir.h"
#include "tests/meshes/dice.h"

namespace shunt {

/// Every model_type of the registry, and "deepspeed".
std::vector<std::string> random_families();

/// A config of the family, valid for its frontend; JSON.
std::string random_config(const std::string& family, Dice& dice);

/// A config with a checkpoint of random numbers beside it.
class RandomModel {
 public:
  RandomModel(const std::string& family, Dice& dice);

  const std::filesystem::path& path() const { return dir_.path(); }
  const Checkpoint& checkpoint() const { return checkpoint_; }
  /// What the config and the choices beside it were, for messages.
  const std::string& text() const { return text_; }
  /// A new logical module; `options` without model_dir.
  ImportedModel import(FrontendOptions options) const;
  /// True if what a gate does with a token depends on the other tokens of the batch.
  bool depends_on_batch() const { return depends_on_batch_; }

 private:
  std::string family_, config_, text_;
  ModelDir dir_;
  Checkpoint checkpoint_;
  bool depends_on_batch_ = false;
};

}  // namespace shunt
