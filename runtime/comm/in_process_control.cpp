// The control channel of a rank that is a thread. Entry point: InProcessWorld::control(). Tested by
// tests/runtime/comm/in_process_test.cpp.
#include <fmt/format.h>

#include <numeric>

#include "ir/error.h"
#include "runtime/comm/in_process_hub.h"

namespace shunt {

namespace {

CommGroup everyone(int size) {
  CommGroup all{"all ranks", std::vector<int>(static_cast<size_t>(size))};
  std::iota(all.ranks.begin(), all.ranks.end(), 0);
  return all;
}

}  // namespace

InProcessControl::InProcessControl(std::shared_ptr<InProcessHub> hub, int rank)
    : ControlChannel(rank, hub->size(), hub->timeout),
      hub_(std::move(hub)),
      all_(hub_->group(everyone(size()))) {
  SHUNT_CHECK(rank >= 0 && rank < size(), "rank {} of {}", rank, size());
  hub_->add(this,
            [](ControlChannel* self) { static_cast<InProcessControl*>(self)->run_on_failure(); });
}

InProcessControl::~InProcessControl() {
  if (!closed_ && size() > 1)
    hub_->fail(fmt::format("rank {} left at {} without closing", rank(),
                           progress_text(hub_->progress[static_cast<size_t>(rank())].get())));
  hub_->remove(this);
}

void InProcessControl::barrier(std::string_view name) {
  InProcessCall call;
  call.op = "barrier";
  call.control = true;
  call.site.loc = name;
  hub_->enter(all_, rank(), call);
  hub_->leave(all_);
}

std::string InProcessControl::broadcast(std::string bytes) {
  InProcessCall call;
  call.op = "broadcast";
  call.control = true;
  call.send = &bytes;
  hub_->enter(all_, rank(), call);
  // A copy: rank 0 keeps its string until all have left.
  std::string result = *static_cast<const std::string*>(all_.calls[0].send);
  hub_->leave(all_);
  return result;
}

std::vector<std::string> InProcessControl::gather(std::string_view name, std::string bytes) {
  InProcessCall call;
  call.op = "gather";
  call.control = true;
  call.site.loc = name;
  call.send = &bytes;
  hub_->enter(all_, rank(), call);
  std::vector<std::string> result;
  for (const InProcessCall& other : all_.calls)
    result.push_back(*static_cast<const std::string*>(other.send));
  hub_->leave(all_);
  return result;
}

void InProcessControl::send_step(StepDescriptor step, std::span<const std::byte> payload) {
  SHUNT_CHECK(rank() == 0, "rank {} may not send steps", rank());
  hub_->check();
  step.sequence = next_step_++;
  const std::lock_guard lock(hub_->mutex);
  for (size_t r = 1; r < hub_->steps.size(); ++r)
    hub_->steps[r].emplace_back(step, std::vector<std::byte>(payload.begin(), payload.end()));
  hub_->changed.notify_all();
}

std::optional<StepDescriptor> InProcessControl::receive_step(std::vector<std::byte>& payload,
                                                             Milliseconds wait) {
  SHUNT_CHECK(rank() != 0, "rank 0 sends steps");
  std::unique_lock lock(hub_->mutex);
  auto& queue = hub_->steps[static_cast<size_t>(rank())];
  hub_->changed.wait_until(lock, CommClock::now() + wait,
                           [&] { return !queue.empty() || hub_->failed; });
  if (hub_->failed) {
    lock.unlock();
    hub_->check();
  }
  if (queue.empty()) return std::nullopt;
  const StepDescriptor step = queue.front().first;
  payload = std::move(queue.front().second);
  queue.pop_front();
  SHUNT_CHECK(step.sequence == next_step_, "step {} came where {} was due", step.sequence,
              next_step_);
  ++next_step_;
  return step;
}

void InProcessControl::set_progress(RankProgress progress) {
  hub_->progress[static_cast<size_t>(rank())].set(progress);
}

void InProcessControl::fail(const std::string& reason) {
  hub_->fail(fmt::format("rank {} failed: {}", rank(), reason));
}

void InProcessControl::close() {
  if (size() > 1 && !closed_) barrier("close");
  closed_ = true;
}

}  // namespace shunt
