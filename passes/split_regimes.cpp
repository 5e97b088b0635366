// The step graph is cloned for decode (one token a sequence, T == S) and prefill (anything), and
// per range of T.
//
//   dim T in [1, 512]
//   dim S in [1, 2]
//   graph @step(...) { ... }                                                              =>
//
//   graph @step.decode.1(...) dims(T in [1, 1], S in [1, 1], R in [1, 1]) { ... }
//   graph @step.decode.2(...) dims(T in [2, 2], S in [2, 2], R in [1, 2]) { ... }
//   graph @step.prefill.512(...) dims(T in [1, 512], S in [1, 2], R in [1, 2]) { ... }
//
// A graph is named by its upper bound of T. Its memory is planned and its kernels are chosen for
// that bound, so the ranges are small where a step is short. Entry point: split_regimes. Tested by
// tests/passes/split_regimes.mir and tests/passes/runner_test.cpp.
#include <fmt/format.h>

#include <algorithm>

#include "ir/error.h"
#include "passes/passes.h"
#include "passes/rewrite.h"

namespace shunt::passes {

using ir::Graph;
using ir::Module;

namespace {

/// The user's upper bounds, else the target's, cut off at `most`, which always ends the list.
std::vector<int64_t> upper_bounds(const std::vector<int64_t>& chosen, std::vector<int64_t> defaults,
                                  int64_t most, std::string_view what) {
  const std::vector<int64_t>& wanted = chosen.empty() ? defaults : chosen;
  std::vector<int64_t> bounds;
  for (const int64_t bound : wanted) {
    const int64_t last = bounds.empty() ? 0 : bounds.back();
    if (bound <= last)
      user_error("{} buckets must be positive and ascending: {} comes after {}", what, bound, last);
    if (bound < most) bounds.push_back(bound);
    if (bound >= most) break;
  }
  bounds.push_back(most);
  return bounds;
}

/// A decode step is launched as a captured graph and waits for weights: a range per power of two.
/// On the cpu nothing is captured; only a single token is worth kernels of its own.
std::vector<int64_t> decode_defaults(const Target& target, int64_t most) {
  std::vector<int64_t> bounds = {1};
  while (!target.is_cpu() && bounds.back() < most) bounds.push_back(bounds.back() * 2);
  return bounds;
}

/// A long prefill is bound by arithmetic and wants large tiles, the tail of a prompt does not.
std::vector<int64_t> prefill_defaults(const Target& target) {
  if (target.is_cpu()) return {};
  return {16, 64};
}

bool has_dim(const Module& module, std::string_view name) {
  return std::any_of(module.dims.begin(), module.dims.end(),
                     [&](const DimDecl& d) { return d.name == name; });
}

/// No more sequences and no more rows with logits than tokens.
DimDecl clipped(const Module& module, std::string_view name, int64_t most) {
  for (const DimDecl& d : module.dims) {
    if (d.name == name) return {d.name, std::min(d.min, most), std::min(d.max, most)};
  }
  internal_error(__FILE__, __LINE__, "dim {} is not declared", name);
}

}  // namespace

bool split_regimes(Module& module, const PassContext& context) {
  const auto at = std::find_if(module.graphs.begin(), module.graphs.end(),
                               [](auto& g) { return g->name == "step"; });
  if (at == module.graphs.end()) return false;
  // An encoder without sequences, or a graph that is a fragment, has no decode regime.
  if (!has_dim(module, "T") || !has_dim(module, "S") || !has_dim(module, "R")) return false;
  const Graph& step = **at;
  const DimDecl tokens = module.dim(step, "T");
  const PassOptions& options = context.options;

  std::vector<std::unique_ptr<Graph>> clones;
  const int64_t most = std::min(tokens.max, module.dim(step, "S").max);
  int64_t low = 1;
  for (const int64_t high : upper_bounds(options.decode_buckets,
                                         decode_defaults(context.target, most), most, "decode")) {
    clones.push_back(clone(step, fmt::format("step.decode.{}", high)));
    clones.back()->dims = {{"T", low, high}, {"S", low, high}, clipped(module, "R", high)};
    low = high + 1;
  }
  low = tokens.min;
  const std::vector<int64_t> bounds = upper_bounds(
      options.prefill_buckets, prefill_defaults(context.target), tokens.max, "prefill");
  for (const int64_t high : bounds) {
    // The original becomes the last graph, so that nothing has to be taken apart.
    clones.push_back(high == bounds.back() ? std::move(*at) : clone(step, ""));
    clones.back()->name = fmt::format("step.prefill.{}", high);
    clones.back()->dims = {
        {"T", low, high}, clipped(module, "S", high), clipped(module, "R", high)};
    low = high + 1;
  }
  const auto place = module.graphs.erase(at);
  module.graphs.insert(place, std::make_move_iterator(clones.begin()),
                       std::make_move_iterator(clones.end()));
  return true;
}

}  // namespace shunt::passes
