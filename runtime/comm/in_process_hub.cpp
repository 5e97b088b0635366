// The meeting of ranks that are threads: InProcessHub::enter() and leave() bracket every
// collective. Tested by tests/runtime/comm/in_process_test.cpp.
#include "runtime/comm/in_process_hub.h"

#include <fmt/format.h>

#include <algorithm>

#include "ir/error.h"

namespace shunt {

std::string InProcessCall::text() const {
  if (control) return fmt::format("{} '{}'", op, site.loc);
  std::string text = site_text(op, site);
  if (count > 0) text += fmt::format(" of {} {}", count, dtype_name(dtype));
  if (root >= 0) text += fmt::format(" from {}", root);
  return text;
}

bool InProcessCall::agrees(const InProcessCall& o) const {
  return std::string_view(op) == o.op && control == o.control && count == o.count &&
         dtype == o.dtype && root == o.root && row_bytes == o.row_bytes &&
         site.step == o.site.step && site.loc == o.site.loc;
}

InProcessHub::InProcessHub(int size, Milliseconds timeout_of_a_wait)
    : timeout(timeout_of_a_wait),
      progress(static_cast<size_t>(size)),
      steps(static_cast<size_t>(size)) {}

InProcessHub::Group& InProcessHub::group(const CommGroup& ranks) {
  for (const int rank : ranks.ranks)
    SHUNT_CHECK(rank >= 0 && rank < size(), "group {} has rank {} of {}", ranks.axis, rank, size());
  const std::lock_guard lock(mutex);
  for (const auto& g : groups_)
    if (g->ranks == ranks) return *g;
  auto g = std::make_unique<Group>();
  g->ranks = ranks;
  g->calls.resize(ranks.ranks.size());
  g->here.resize(ranks.ranks.size());
  groups_.push_back(std::move(g));
  return *groups_.back();
}

void InProcessHub::enter(Group& g, int rank, const InProcessCall& call) {
  const auto r = static_cast<size_t>(rank);
  if (!call.control)
    progress[static_cast<size_t>(g.ranks.ranks[r])].set({call.site.step, call.site.op});
  std::unique_lock lock(mutex);
  if (failed) throw DeviceError(reason_);
  g.calls[r] = call;
  g.here[r] = 1;
  const uint64_t mine = g.entered;
  std::string problem;
  if (++g.arrived == static_cast<int>(g.calls.size())) {
    problem = mismatch(g);
    if (problem.empty()) {
      g.arrived = 0;
      std::fill(g.here.begin(), g.here.end(), 0);
      g.busy = static_cast<int>(g.calls.size());
      ++g.entered;
      changed.notify_all();
      return;
    }
  } else {
    changed.wait_until(lock, CommClock::now() + timeout,
                       [&] { return g.entered != mine || failed; });
    // A group that is complete goes on, even after a failure elsewhere: its ranks count on each
    // other in leave().
    if (g.entered != mine) return;
    if (!failed) problem = late(g, call);
  }
  --g.arrived;
  g.here[r] = 0;
  const bool first = !problem.empty() && record(problem);
  const DeviceError error(reason_);
  lock.unlock();
  if (first) notify_members();
  throw error;
}

// No deadline: between enter() and leave() a rank only copies and adds.
void InProcessHub::leave(Group& g) {
  std::unique_lock lock(mutex);
  const uint64_t mine = g.left;
  if (--g.busy == 0) {
    ++g.left;
    changed.notify_all();
    return;
  }
  changed.wait(lock, [&] { return g.left != mine; });
}

std::string InProcessHub::mismatch(const Group& g) const {
  for (size_t i = 1; i < g.calls.size(); ++i)
    if (!g.calls[i].agrees(g.calls[0]))
      return fmt::format(
          "ranks issue different collectives in group {}: rank {} is at {}, rank {} at {}",
          g.ranks.axis, g.ranks.ranks[0], g.calls[0].text(), g.ranks.ranks[i], g.calls[i].text());
  return {};
}

std::string InProcessHub::late(const Group& g, const InProcessCall& call) const {
  std::vector<int> missing;
  for (size_t i = 0; i < g.here.size(); ++i)
    if (g.here[i] == 0) missing.push_back(g.ranks.ranks[i]);
  const std::string what = call.control ? call.text() : site_text(call.op, call.site);
  return late_text(missing, all_progress(), what, timeout);
}

std::vector<RankProgress> InProcessHub::all_progress() const {
  std::vector<RankProgress> all;
  for (const AtomicProgress& p : progress) all.push_back(p.get());
  return all;
}

bool InProcessHub::record(const std::string& reason) {
  if (failed) return false;
  reason_ = reason;
  failed = true;
  changed.notify_all();
  return true;
}

void InProcessHub::fail(const std::string& reason) {
  bool first = false;
  {
    const std::lock_guard lock(mutex);
    first = record(reason);
  }
  if (first) notify_members();
}

void InProcessHub::check() const {
  if (!failed.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(mutex);
  throw DeviceError(reason_);
}

void InProcessHub::notify_members() {
  const std::lock_guard lock(members_mutex_);
  for (const auto& [member, run] : members_) run(member);
}

void InProcessHub::add(ControlChannel* member, void (*run)(ControlChannel*)) {
  const std::lock_guard lock(members_mutex_);
  members_.emplace_back(member, run);
}

void InProcessHub::remove(ControlChannel* member) {
  const std::lock_guard lock(members_mutex_);
  std::erase_if(members_, [&](const auto& m) { return m.first == member; });
}

}  // namespace shunt
