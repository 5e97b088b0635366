// Golden data that `shunt verify` compares with: what a reference implementation computed for a
// model.
//
// Two formats. (1) One safetensors file: input_ids [n, t] i64; logits [n, t, V] f32; optional
// hidden.N [n, t, H] f32, router_logits.N [n*t, E] f32 (N counts MoE layers), greedy_ids [n, g]
// i64, greedy_margin [n, g] f32. (2) A JSON file {"prompts": [{"input_ids": [...], "greedy_ids":
// [...], "greedy_margin": [...]}]} with <stem>_logits.safetensors beside it: promptN.logits
// [tokens, V] f32.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace shunt {

struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> data;  // row-major
  const float* row(int64_t r) const { return data.data() + r * cols; }
  float* row(int64_t r) { return data.data() + r * cols; }
};

struct GoldenSequence {
  std::string name;                      // "sequence 0", "prompt 2"
  std::vector<int32_t> ids;              // the prompt
  Matrix logits;                         // [ids, V]
  std::map<std::string, Matrix> probes;  // "hidden.3" [ids, H], "router_logits.1" [ids, E]
  std::vector<int32_t> greedy_ids;       // continuation; may be empty
  std::vector<float> greedy_margin;      // top-1 minus top-2 logit at each of them
};

/// What a plan must hold to run all prompts in one step, and each with its continuation.
struct GoldenSizes {
  int64_t sequences = 0;
  int64_t tokens = 0;   // of all prompts
  int64_t longest = 0;  // prompt and continuation
};
GoldenSizes sizes_of(const std::vector<GoldenSequence>& golden);

/// Throws UserError naming the file and what it lacks.
std::vector<GoldenSequence> load_golden(const std::filesystem::path& file);

}  // namespace shunt
