// Why a model directory becomes the model it becomes: what `inspect --explain` shows.
//
// Nothing here is a list kept by hand. What a key of the config does is found by reading the config
// with other values of it and looking which attributes differ; what a tensor is for stands in the
// graph @load.
#pragma once

#include <string>
#include <vector>

#include "frontends/describe.h"
#include "frontends/frontend.h"

namespace shunt {

struct KeyUse {
  std::string key;    // "rope_parameters.rope_theta"
  std::string value;  // JSON; long ones are cut
  /// Of the model: "layer.attention.rope.theta = 10000". Empty for a key that was ignored, that was
  /// checked only, or whose value decides nothing here.
  std::vector<std::string> attributes;
  bool fixed = false;   // no other value that was tried fits the rest of the file
  std::string ignored;  // why; empty if the key was read
};

struct TensorUse {
  std::string tensor;     // with '*': `stack` of them
  int64_t stack = 0;      // one tensor as it is: 0
  std::string dtype;      // "bf16"
  std::string shape;      // "[2048, 2048]", of the stack "[64, 2048, 1024]"
  std::string parameter;  // what it becomes, or a part of it
  /// What @load does with it on the way, in order: "transpose", "slice axis 0 [0, 64)".
  std::vector<std::string> steps;
};

struct Explanation {
  std::string file;              // of the config
  std::vector<Attribute> model;  // everything the config says, defaults included
  std::vector<KeyUse> keys;
  std::vector<TensorUse> tensors;    // empty without a checkpoint
  std::vector<UnusedTensor> unused;  // of the checkpoint
};

/// Throws what import_model() throws. `checkpoint` may be nullptr only with options.dummy_weights.
Explanation explain_model(const FrontendOptions& options, const Checkpoint* checkpoint);

}  // namespace shunt
