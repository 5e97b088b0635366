// ds_inference_config.json: DeepSpeed's inference config, engine keys and checkpoint description in
// one object. docs/deepspeed.md says what each key does here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "frontends/architecture.h"
#include "frontends/hf/config.h"

namespace shunt::deepspeed {

class Shards;

/// The key `checkpoint`.
struct CheckpointSpec {
  std::vector<std::string> files;  // one a rank of tensor parallelism
  std::string experts = "layer_{layer}_expert_{expert}_mp_rank_{rank:02d}_model_states.pt";
  double version = -1;  // layout of query_key_value; -1: what the files say
};

CheckpointSpec read_checkpoint_spec(const hf::Config& config);

/// The model. `shards` nullptr (dummy weights): biases and norms as Megatron has them, a mixture in
/// every expert_interval-th layer.
Architecture read_architecture(const hf::Config& config, const Shards* shards);

}  // namespace shunt::deepspeed
