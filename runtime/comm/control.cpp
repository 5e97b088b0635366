// What all control channels share: the failure callback and the texts of errors. Tested by
// tests/runtime/comm/in_process_test.cpp and rendezvous_test.cpp.
#include "runtime/comm/control.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

namespace shunt {

void ControlChannel::set_on_failure(std::function<void()> callback) {
  const std::lock_guard lock(callback_mutex_);
  callback_ = std::move(callback);
  if (callback_ && callback_due_) std::exchange(callback_, nullptr)();
}

void ControlChannel::run_on_failure() {
  const std::lock_guard lock(callback_mutex_);
  callback_due_ = true;
  if (callback_) std::exchange(callback_, nullptr)();
}

std::string seconds_text(Milliseconds time) {
  return fmt::format("{:g} s", static_cast<double>(time.count()) / 1000);
}

std::string ranks_text(const std::vector<int>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

std::string progress_text(RankProgress progress) {
  if (progress.step < 0) return "no step yet";
  if (progress.op < 0) return fmt::format("step {}", progress.step);
  return fmt::format("step {}, op {}", progress.step, progress.op);
}

std::string late_text(const std::vector<int>& missing, const std::vector<RankProgress>& all,
                      std::string_view what, Milliseconds timeout) {
  std::string where;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const bool listed =
        missing.empty() || std::count(missing.begin(), missing.end(), static_cast<int>(rank)) != 0;
    if (listed)
      where +=
          fmt::format("{}rank {} at {}", where.empty() ? "" : "; ", rank, progress_text(all[rank]));
  }
  if (missing.empty())
    return fmt::format("{} did not end within {}, though no rank is behind ({})", what,
                       seconds_text(timeout), where);
  return fmt::format("{} did not arrive at {} within {} ({})", ranks_text(missing), what,
                     seconds_text(timeout), where);
}

std::vector<int> ranks_behind(const std::vector<RankProgress>& all, const std::vector<int>& group,
                              RankProgress here) {
  std::vector<int> behind;
  for (const int rank : group) {
    const RankProgress& p = all[static_cast<size_t>(rank)];
    if (std::tie(p.step, p.op) < std::tie(here.step, here.op)) behind.push_back(rank);
  }
  return behind;
}

}  // namespace shunt
