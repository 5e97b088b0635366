// Which mesh for a model on N GPUs: every legal one compiled without kernels, its decode step
// predicted, the quickest that fits taken.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "passes/place/predict.h"
#include "tools/driver.h"

namespace shunt {

struct Layout {
  Mesh mesh;
  passes::StepPrediction step;
  int64_t rank_bytes = 0;  // weights, activations, and KV of the workload, on the fullest rank
  bool fits = true;        // in 90 % of the target's memory
  std::vector<std::string> keep_whole = {};  // as in its plan
  std::string refused;                       // why it cannot be compiled; then the rest is empty
};

/// All meshes of `gpus` ranks whose axes agree with `given` (0: free), the best first: what fits by
/// predicted time, then what does not, then what cannot be compiled. `on_progress` is told each
/// layout in turn. Throws UserError for a model that cannot be imported, and where no mesh agrees.
std::vector<Layout> compare_layouts(
    const CompileOptions& options, int gpus, const Mesh& given, const passes::Workload& workload,
    const std::function<void(const std::string&)>& on_progress = {});

/// A table, one line a layout.
std::string layout_table(const std::vector<Layout>& layouts, const passes::Workload& workload);

}  // namespace shunt
