// Which expert choices of a golden bf16 may flip, and what they were: `verify` forces them, so that
// one flipped near-tie does not hide behind, or pass for, an error of everything after it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ir/attrs.h"
#include "tools/driver.h"
#include "tools/golden.h"

namespace shunt {

/// How one MoE layer chooses.
struct Router {
  std::string number;  // N of router_logits.N and forced.N
  ir::TopkGateAttrs gate;
  int64_t experts = 0;
  std::vector<float> bias;  // selection bias; empty: none
};

/// The routers of a model directory, in the order of its layers. Reads the selection biases from
/// the checkpoint and nothing else of it.
std::vector<Router> read_routers(const CompileOptions& options);

/// True if moving the logits by 0.5 % of the largest magnitude among them, each up or down, could
/// change which experts are chosen: for a gate that ranks its logits, if the k-th and the next
/// differ by less than 1 % of it. What is compared is what the gate ranks: scores with the
/// selection bias, groups before experts, and the sparse mixer's choices in their order.
/// `logits` [experts].
bool is_near_tie(const Router& router, const float* logits);

struct ForcedChoices {
  std::map<std::string, std::vector<int32_t>> rows;  // forced.N: [T, k], -1 where not forced
  int64_t count = 0;                                 // rows that are forced
  int64_t random_layers = 0;                         // whose second choice is drawn: left alone
};

/// `probes` of each sequence hold router_logits.N [ids, experts] of every router. Throws UserError
/// where one is missing or has another number of experts.
ForcedChoices force_near_ties(const std::vector<Router>& routers,
                              const std::vector<const std::map<std::string, Matrix>*>& probes);

}  // namespace shunt
