// Entry point: choose_sharding(). Tested by tests/passes/place/sharding_test.cpp.
#include "passes/place/choose_sharding.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "passes/place/regions.h"
#include "passes/runner.h"

namespace shunt::passes {

namespace {

using Names = std::vector<std::string>;
using Trial = ShardingChoice::Trial;

/// Sequences that a dp group decodes at once; 0: there is no decode graph.
int64_t most_sequences(const ir::Module& module) {
  for (const DimDecl& d : module.dims) {
    if (d.name == "S") return d.max;
  }
  return 0;
}

/// Of a dp group's sequences.
int64_t rank_bytes(const ir::Module& module, int64_t sequences, int64_t context) {
  int64_t bytes = 0;
  for (const ir::Param& p : module.params) bytes += p.value->type.bytes().constant();
  for (const ir::State& s : module.states) {
    const int64_t rows =
        s.value->state_kind() == StateKind::paged ? sequences * context : sequences;
    bytes += rows * s.value->type.bytes().constant();
  }
  return bytes;
}

class Chooser {
 public:
  Chooser(const ir::Module& logical, const Target& target, const PassOptions& options,
          const Workload& workload)
      : logical_(logical), target_(target), options_(options), workload_(workload) {
    options_.dump_dir.clear();
    options_.stop_after.clear();
    // Of all ranges of T, only the one that is predicted needs to be looked at.
    if (options_.decode_buckets.empty())
      options_.decode_buckets = {
          static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(sequences())))};
    options_.prefill_buckets = {std::numeric_limits<int64_t>::max()};
  }

  ShardingChoice run(const Names& regions) {
    const int64_t split_bytes = trial({}).rank_bytes;
    most_bytes_ = std::max(split_bytes,
                           static_cast<int64_t>(0.85 * static_cast<double>(target_.memory_bytes)));
    const Trial from_split = descend({}, regions), from_whole = descend(regions, regions);
    out_.keep_whole = (better(from_whole, from_split) ? from_whole : from_split).keep_whole;
    return std::move(out_);
  }

 private:
  /// From `whole`, turns each region in its order and leaves it so if that is better.
  Trial descend(const Names& whole, const Names& regions) {
    Trial best = trial(whole);
    for (const std::string& region : regions) {
      Names turned = best.keep_whole;
      if (std::erase(turned, region) == 0) turned.push_back(region);
      const Trial now = trial(turned);
      if (better(now, best)) best = now;
    }
    return best;
  }

  /// Of a dp group.
  int64_t sequences() const { return options_.mesh.group_batch(workload_.batch); }

  bool better(const Trial& a, const Trial& b) const {
    const bool fits = a.rank_bytes <= most_bytes_;
    if (fits != (b.rank_bytes <= most_bytes_)) return fits;
    if (!fits && a.rank_bytes != b.rank_bytes) return a.rank_bytes < b.rank_bytes;
    if (a.seconds != b.seconds) return a.seconds < b.seconds;
    return a.keep_whole.size() < b.keep_whole.size();
  }

  Trial trial(Names whole) {
    std::sort(whole.begin(), whole.end());
    for (const Trial& t : out_.trials) {
      if (t.keep_whole == whole) return t;
    }
    const auto module = ir::clone(logical_);
    options_.keep_whole = whole;
    run_pipeline(*module, target_, options_);
    out_.trials.push_back(
        {std::move(whole),
         predict_decode(*module, target_, workload_, options_.peer_memory).seconds(),
         rank_bytes(*module, sequences(), workload_.context)});
    return out_.trials.back();
  }

  const ir::Module& logical_;
  const Target& target_;
  PassOptions options_;
  Workload workload_;
  int64_t most_bytes_ = 0;
  ShardingChoice out_;
};

}  // namespace

ShardingChoice choose_sharding(const ir::Module& logical, const Target& target,
                               const PassOptions& options, Workload workload) {
  const Mesh& mesh = options.mesh;
  const int64_t most = most_sequences(logical);
  if (most == 0) return {};
  Names regions = region_names(logical, mesh.tp);
  if (regions.empty()) return {};
  workload.batch = std::min(workload.batch, most * mesh.dp);
  return Chooser(logical, target, options, workload).run(regions);
}

}  // namespace shunt::passes
