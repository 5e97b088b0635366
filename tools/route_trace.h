// Recording a routing profile (docs/placement.md) from what a session or an evaluator has counted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "passes/place/profile.h"
#include "runtime/session.h"

namespace shunt {

struct RouteTraceOptions {
  std::filesystem::path file;  // to write; empty: nothing is recorded
  int64_t window = 0;          // tokens a window of the profile; 0: all in one
};

/// Throws UserError if a trace of this plan makes no sense (a dense model) or could not be written.
/// To be called before weights are loaded, so that nobody waits for it. `rank`: of this process;
/// rank 0 writes the file.
void check_route_trace(const RouteTraceOptions& options, const Plan& plan, int rank);

/// Cuts counts that only grow into windows.
class RouteTrace {
 public:
  using Source = std::function<std::vector<RouteCounts>()>;
  /// What `source` has counted before belongs to no window. Without a file nothing is ever read
  /// from it. Throws UserError if there are no MoE layers.
  RouteTrace(RouteTraceOptions options, Source source);

  /// `tokens` have been computed since the start: ends the window if it has that many. To be called
  /// after steps; a window is longer by what the last step had too many.
  void advance(int64_t tokens);
  /// Ends the last window, of at least half the one before, and writes the file. Throws UserError
  /// if that fails, or if there was nothing to count.
  void finish();

 private:
  void end_window();
  void join_short_rest();
  RouteTraceOptions options_;
  Source source_;
  std::vector<RouteCounts> seen_;
  int64_t window_start_ = 0;  // in tokens
  passes::RoutingProfile profile_;
};

}  // namespace shunt
