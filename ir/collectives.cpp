// The model of collectives.h. Tested by tests/passes/place/predict_test.cpp.
#include "ir/collectives.h"

#include <algorithm>

namespace shunt {

namespace {

// Lines carry as many bytes of epochs as of data (codegen/kernels/ptx/peer.cuh).
constexpr double kLineOverhead = 2;

/// Seconds of the smallest collective, in Target::collective_seconds.
double with_ranks(int ranks) { return 1 + 0.15 * ranks; }

}  // namespace

double collective_seconds_of_two(double seconds) { return seconds / with_ranks(2); }

double comm_seconds(int rounds, double bytes, int ranks, const Target& target) {
  if (ranks <= 1) return 0;
  const double n = ranks;
  return target.collective_seconds * with_ranks(ranks) +
         rounds * (n - 1) / n * bytes / target.link_bytes_per_s;
}

double peer_seconds(double bytes, int ranks, const Target& target) {
  return target.peer_seconds + kLineOverhead * (ranks - 1) * bytes / target.link_bytes_per_s;
}

double peer_sliced_seconds(double bytes, int ranks, const Target& target) {
  const double n = ranks;
  return 1.4 * target.peer_seconds +  // a second trip over the link
         kLineOverhead * 2 * (n - 1) / n * bytes / target.link_bytes_per_s;
}

double all_reduce_seconds(double bytes, int ranks, bool peer_memory, const Target& target) {
  const double comm = comm_seconds(2, bytes, ranks, target);
  if (!exchanges_over_peers(ranks, peer_memory) || bytes > static_cast<double>(kMaxPeerBytes)) {
    return comm;
  }
  return std::min(
      {comm, peer_seconds(bytes, ranks, target), peer_sliced_seconds(bytes, ranks, target)});
}

double exchange_seconds(int kernels, double bytes, const Target& target) {
  return kernels * target.launch_seconds + 2 * target.peer_seconds +
         bytes / target.link_bytes_per_s;
}

double exchange_lines_seconds(double bytes, const Target& target) {
  return target.launch_seconds + target.peer_seconds +
         kLineOverhead * bytes / target.link_bytes_per_s;
}

}  // namespace shunt
