// Entry point: choose_sharding(). Tested by tests/passes/place/sharding_test.cpp.
#include "passes/place/choose_sharding.h"

#include <algorithm>

#include "passes/place/regions.h"
#include "passes/runner.h"

namespace shunt::passes {

namespace {

using Names = std::vector<std::string>;

/// Sequences that a dp group decodes at once; 0: there is no decode graph.
int64_t most_sequences(const ir::Module& module) {
  int64_t most = 0;
  for (const DimDecl& d : module.dims) {
    if (d.name == "S") most = d.max;
  }
  return module.states.empty() ? 0 : most;
}

class Chooser {
 public:
  Chooser(const ir::Module& logical, const Target& target, const PassOptions& options,
          const Workload& workload)
      : logical_(logical), target_(target), options_(options), workload_(workload) {
    options_.dump_dir.clear();
    options_.stop_after.clear();
  }

  ShardingChoice run(const Names& regions) {
    Names best = improved({}, regions);
    double least = seconds(best);
    const Names other = improved(regions, regions);
    if (seconds(other) < least) best = other;
    out_.keep_whole = best;
    return std::move(out_);
  }

 private:
  /// Turns one region after the other as long as that is quicker.
  Names improved(Names whole, const Names& regions) {
    double least = seconds(whole);
    for (const std::string& region : regions) {
      Names turned = whole;
      const auto at = std::find(turned.begin(), turned.end(), region);
      const bool splits = at != turned.end();
      splits ? static_cast<void>(turned.erase(at)) : turned.push_back(region);
      const double now = seconds(turned);
      if (now < least || (splits && now <= least)) {
        least = now;
        whole = turned;
      }
    }
    return whole;
  }

  double seconds(Names whole) {
    std::sort(whole.begin(), whole.end());
    for (const auto& trial : out_.trials) {
      if (trial.keep_whole == whole) return trial.seconds;
    }
    const auto module = ir::clone(logical_);
    options_.keep_whole = whole;
    run_pipeline(*module, target_, options_);
    const double s = predict_decode(*module, target_, workload_, options_.peer_memory).seconds();
    out_.trials.push_back({std::move(whole), s});
    return s;
  }

  const ir::Module& logical_;
  const Target& target_;
  PassOptions options_;
  Workload workload_;
  ShardingChoice out_;
};

}  // namespace

ShardingChoice choose_sharding(const ir::Module& logical, const Target& target,
                               const PassOptions& options, Workload workload) {
  const Mesh& mesh = options.mesh;
  const int64_t most = most_sequences(logical);
  if (mesh.tp == 1 || most == 0) return {};
  const Names regions = region_names(logical, mesh.tp);
  if (regions.empty()) return {};
  workload.batch = std::min(workload.batch, most * mesh.dp);
  return Chooser(logical, target, options, workload).run(regions);
}

}  // namespace shunt::passes
