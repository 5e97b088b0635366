// Route counters as the windows of a profile. Entry points: check_route_trace(), RouteTrace. Tested
// by tests/tools/route_trace_test.cpp.
#include "tools/route_trace.h"

#include <fstream>
#include <numeric>

#include "ir/error.h"
#include "passes/place/moe_shapes.h"
#include "tools/expert_map_json.h"

namespace shunt {

namespace {

void check_has_experts(bool has) {
  if (!has) user_error("--route-trace: the model is dense: it has no routes to experts to count");
}

}  // namespace

void check_route_trace(const RouteTraceOptions& options, const Plan& plan, int rank) {
  if (options.file.empty()) return;
  check_has_experts(plan.counters_bytes > 0);
  if (rank != 0) return;
  const auto folder = std::filesystem::absolute(options.file).parent_path();
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error))
    user_error("--route-trace {}: there is no folder {}", options.file.string(), folder.string());
  if (std::filesystem::is_directory(options.file, error))
    user_error("--route-trace {} is a folder: give a file", options.file.string());
}

RouteTrace::RouteTrace(RouteTraceOptions options, Source source)
    : options_(std::move(options)), source_(std::move(source)) {
  if (options_.file.empty()) return;
  seen_ = source_();
  check_has_experts(!seen_.empty());
  for (const RouteCounts& layer : seen_) profile_.layers.push_back(passes::layer_number(layer.loc));
}

void RouteTrace::advance(int64_t tokens) {
  if (options_.file.empty() || options_.window == 0) return;
  if (tokens - window_start_ < options_.window) return;
  window_start_ = tokens;
  end_window();
}

void RouteTrace::end_window() {
  const std::vector<RouteCounts> now = source_();
  passes::RoutingWindow window;
  int64_t routes = 0;
  for (size_t l = 0; l < now.size(); ++l) {
    std::vector<double>& counts = window.counts.emplace_back();
    for (size_t e = 0; e < now[l].routes.size(); ++e) {
      const int64_t more = now[l].routes[e] - seen_[l].routes[e];
      counts.push_back(static_cast<double>(more));
      routes += more;
    }
  }
  if (routes > 0) profile_.windows.push_back(std::move(window));
  seen_ = now;
}

/// A rest that is too short to say anything by itself belongs to the window before it.
void RouteTrace::join_short_rest() {
  auto& windows = profile_.windows;
  if (windows.size() < 2) return;
  const auto routes = [](const passes::RoutingWindow& w) {
    return std::accumulate(w.counts[0].begin(), w.counts[0].end(), 0.0);
  };
  if (2 * routes(windows.back()) >= routes(windows.end()[-2])) return;
  windows.end()[-2].counts =
      passes::RoutingProfile{{}, {windows.end()[-2], windows.back()}}.total();
  windows.pop_back();
}

void RouteTrace::finish() {
  if (options_.file.empty()) return;
  end_window();
  join_short_rest();
  if (profile_.windows.empty()) user_error("no token was computed: there are no routes to write");
  std::ofstream file(options_.file, std::ios::binary);
  file << profile_to_json(profile_);
  file.close();
  if (!file) user_error("{}: cannot be written", options_.file.string());
}

}  // namespace shunt
