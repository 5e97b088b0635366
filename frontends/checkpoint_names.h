// The names of a model's tensors and those of a checkpoint, where the two differ by what they begin
// with.
#pragma once

#include <string>

#include "frontends/architecture.h"

namespace shunt {

class Checkpoint;

/// Renames what `arch` looks for to what the checkpoint has, where that begins differently: the
/// text model inside a multimodal one ("language_model.model.layers.",
/// "model.language_model.layers."), or a model saved without its head ("h." for "transformer.h.").
/// Unchanged if none of these fits.
void match_names(Architecture& arch, const Checkpoint& checkpoint);

/// True if a tensor of this name, which nothing asked for, would belong to what is run: it lies
/// beside the layers, or beside a tensor that is used. What it stands for may change the result.
bool belongs_to_model(const CheckpointNames& names, const std::string& tensor);

}  // namespace shunt
