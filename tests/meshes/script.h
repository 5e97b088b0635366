// What a random model is asked to compute, and comparing what several executors made of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "frontends/frontend.h"
#include "runtime/session.h"
#include "tests/meshes/dice.h"
#include "tools/step_runner.h"

namespace shunt {

/// A batch of sequences over several steps.
struct Script {
  std::vector<std::vector<int32_t>> prompts;  // one step
  std::vector<int32_t> more;                  // then of sequence 0 alone
  std::vector<std::vector<int32_t>> decoded;  // then a token for every sequence, step by step
  int64_t longest = 0, forced = 0;            // choices a token of forced.N; 0: none
  bool force_all = false;                     // every token; else about half of them
  uint64_t seed = 0;
};

Script draw_script(Dice& dice, int64_t vocab);

/// The values of every step. Not `causal` (an encoder): of the first alone.
std::vector<StepValues> play(StepRunner& runner, const Script& script, const ModelFacts& facts,
                             bool causal);

/// Each dp group's part of a batch on a runner of its own: what a gate that looks at the whole
/// batch must do with several groups.
std::unique_ptr<StepRunner> groups_alone(std::vector<std::unique_ptr<StepRunner>> groups);

/// `count` greedy ids after each prompt, through an Engine: more requests than fit at once, in any
/// batches.
std::vector<std::vector<int32_t>> generate(Session& session,
                                           const std::vector<std::vector<int32_t>>& prompts,
                                           int64_t count);

/// Those of `chosen` that do not have the largest of the reference's logits, by more than 1e-3 of
/// their root mean square; empty if all do.
std::string wrong_choices(StepRunner& reference, const std::vector<std::vector<int32_t>>& prompts,
                          const std::vector<std::vector<int32_t>>& chosen);

/// What differs by more than 1e-3, of the values that both have; empty if nothing does. `worst`
/// becomes the largest error so far. Of a float32 executor errors are counted in units of the
/// values' root mean square, of another it is 1 - 2 sum(xy) / sum(x^2 + y^2), as `verify` has it.
std::string difference(const std::vector<StepValues>& got, const std::vector<StepValues>& want,
                       bool float32, double* worst);

}  // namespace shunt
