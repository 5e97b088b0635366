// Making, watching and ending NCCL communicators. Entry points: NcclState's public members. Tested
// by tests/runtime/comm/nccl_test.cpp, which needs two GPUs.
#include "runtime/comm/nccl_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "ir/error.h"

namespace shunt {

namespace {

/// To free communicators, before they are left to the process's end; and as long to get a turn.
constexpr Milliseconds kEndTime{5'000};

ncclConfig_t make_config() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

// Short at first: most waits are for something that is about to happen.
void back_off(CommClock::time_point start) {
  if (CommClock::now() - start < Milliseconds(20)) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

}  // namespace

NcclState::NcclState(std::unique_ptr<ControlChannel> control, int gpu, Milliseconds init_timeout)
    : channel(std::move(control)), device(gpu), init_timeout_(init_timeout) {
  ncclUniqueId id{};
  if (channel->rank() == 0)
    if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess)
      fail("ncclGetUniqueId", result);
  const std::string bytes = channel->broadcast({id.internal, sizeof id.internal});
  SHUNT_CHECK(bytes.size() == sizeof id.internal, "an NCCL id of {} bytes", bytes.size());
  std::memcpy(id.internal, bytes.data(), bytes.size());

  const auto all = add_comm();
  // From here on a peer's failure must reach calls that are in progress.
  channel->set_on_failure([this] { end_comms(); });
  ncclConfig_t config = make_config();
  ncclResult_t result;
  {
    const std::lock_guard lock(all->mutex);
    channel->check();
    result = ncclCommInitRankConfig(&all->handle, channel->size(), id, channel->rank(), &config);
  }
  const std::string what = "making the NCCL communicator of all ranks";
  try {
    if (result != ncclSuccess && result != ncclInProgress) fail(what, result);
    settle(*all, what, init_timeout_);
  } catch (...) {
    channel->set_on_failure({});  // the destructor does not run
    end_comms();
    ender_.detach();
    throw;
  }
}

NcclState::~NcclState() {
  channel->set_on_failure({});
  // Not ncclCommDestroy, which waits for the other ranks: after close() or a failure there is
  // nothing to wait for.
  end_comms();
  // NCCL does not let go of a communicator before the CUDA graphs that captured it are gone. They
  // should be by now.
  if (ended_.wait_for(2 * kEndTime) == std::future_status::ready) {
    ender_.join();
  } else {
    ender_.detach();
  }
}

std::shared_ptr<NcclComm> NcclState::add_comm() {
  auto comm = std::make_shared<NcclComm>();
  const std::lock_guard lock(list_->mutex);
  if (list_->aborted) {
    channel->check();
    throw DeviceError(fmt::format("rank {}: the communicators are aborted", channel->rank()));
  }
  list_->comms.push_back(comm);
  return comm;
}

std::shared_ptr<NcclComm> NcclState::split(const CommGroup& group) {
  NcclComm& all = *list_->comms[0];
  const auto part = add_comm();
  ncclConfig_t config = make_config();
  const auto key =
      std::find(group.ranks.begin(), group.ranks.end(), channel->rank()) - group.ranks.begin();
  const int color = *std::min_element(group.ranks.begin(), group.ranks.end());
  const std::string what = fmt::format("making the NCCL communicator of axis {}, {}", group.axis,
                                       ranks_text(group.ranks));
  const ncclResult_t result = locked(all, [&](ncclComm_t handle) {
    return ncclCommSplit(handle, color, static_cast<int>(key), &part->handle, &config);
  });
  if (result != ncclSuccess && result != ncclInProgress) fail(what, result);
  // NCCL writes the new handle while the split is in progress on the old one: nobody may look at it
  // before.
  settle(all, what, init_timeout_);
  settle(*part, what, init_timeout_);
  return part;
}

void NcclState::check_alive(const NcclComm& comm) const {
  channel->check();
  if (comm.handle == nullptr)
    throw DeviceError(fmt::format("rank {}: the communicators are aborted", channel->rank()));
}

ncclResult_t NcclState::async_error(NcclComm& comm) {
  return locked(comm, [](ncclComm_t handle) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t result = ncclCommGetAsyncError(handle, &state);
    return result == ncclSuccess ? state : result;
  });
}

void NcclState::settle(NcclComm& comm, const std::string& what, Milliseconds timeout) {
  const auto start = CommClock::now();
  while (true) {
    const ncclResult_t result = async_error(comm);
    if (result == ncclSuccess) return;
    if (result != ncclInProgress) fail(what, result);
    if (CommClock::now() - start > timeout)
      fail(fmt::format("{} did not end within {}", what, seconds_text(timeout)));
    back_off(start);
  }
}

void NcclState::check_comms(const CommSite& site) {
  std::vector<std::shared_ptr<NcclComm>> comms;
  {
    const std::lock_guard lock(list_->mutex);
    comms = list_->comms;
  }
  for (const auto& comm : comms) {
    const ncclResult_t state = async_error(*comm);
    if (state != ncclSuccess && state != ncclInProgress) fail(site_text("waiting in", site), state);
  }
}

std::shared_ptr<PeerWords> NcclState::add_words() {
  auto words = std::make_shared<PeerWords>();
  const std::lock_guard lock(list_->mutex);
  if (list_->aborted) words->abort();
  list_->words.push_back(words);
  return words;
}

void NcclState::check() {
  channel->check();
  bool gave_up = false;
  {
    const std::lock_guard lock(list_->mutex);
    for (const auto& words : list_->words) gave_up = gave_up || words->gave_up();
  }
  if (gave_up) {
    fail(fmt::format("a kernel waited longer than {} for another rank's memory",
                     seconds_text(2 * channel->timeout())));
  }
}

void NcclState::wait(cudaStream_t stream, const CommSite& site) {
  const auto start = CommClock::now();
  auto next_check = start;
  while (true) {
    const cudaError_t status = cudaStreamQuery(stream);
    // An abort lets kernels end early, with anything for a result: the failure was recorded before
    // it.
    if (status != cudaErrorNotReady) check();
    if (status == cudaSuccess) return;
    if (status != cudaErrorNotReady) {
      await_failure();
      fail(fmt::format("{}: {}", site_text("waiting in", site), cudaGetErrorString(status)));
    }
    const auto now = CommClock::now();
    if (now >= next_check) {
      channel->check();
      check_comms(site);
      next_check = now + Milliseconds(2);
    }
    if (now - start > channel->timeout()) {
      std::vector<int> all(static_cast<size_t>(channel->size()));
      std::iota(all.begin(), all.end(), 0);
      const auto progress = channel->progress();
      const RankProgress here = progress[static_cast<size_t>(channel->rank())];
      const std::string what =
          fmt::format("step {}{}{}", site.step, site.loc.empty() ? "" : ", ", site.loc);
      fail(late_text(ranks_behind(progress, all, here), progress, what, channel->timeout()));
    }
    back_off(start);
  }
}

/// A kernel may have failed because a peer, and with it its memory, went away: then the control
/// channel knows better, in a moment.
void NcclState::await_failure() {
  const auto start = CommClock::now();
  while (channel->alive() && CommClock::now() - start < Milliseconds(500))
    std::this_thread::sleep_for(Milliseconds(5));
  channel->check();
}

void NcclState::fail(const std::string& what, ncclResult_t result) {
  const char* detail = ncclGetLastError(nullptr);  // it ignores the communicator
  const bool some = detail != nullptr && *detail != '\0';
  fail(fmt::format("{}: NCCL: {}{}{}", what, ncclGetErrorString(result), some ? ": " : "",
                   some ? detail : ""));
}

void NcclState::fail(const std::string& reason) {
  abort(reason);
  channel->check();
  throw DeviceError(reason);  // not reached: the channel has failed
}

void NcclState::abort(const std::string& reason) {
  channel->fail(reason);
  end_comms();
}

// On a thread of its own: ncclCommAbort ends what runs on the GPU at once, but returns only when
// the CUDA graphs that captured the communicator are destroyed, and those belong to the thread that
// is told of the failure.
void NcclState::end_comms() {
  const bool orderly = channel->alive();
  const std::lock_guard lock(list_->mutex);
  if (std::exchange(list_->aborted, true)) return;
  for (const auto& words : list_->words) words->abort();
  std::promise<void> done;
  ended_ = done.get_future();
  ender_ = std::thread([list = list_, orderly, done = std::move(done)]() mutable {
    free_all(*list, orderly);
    done.set_value();
  });
}

// All in one group: freeing one may wait for a stream on which another one's kernel still waits for
// its peers; one after the other they also take a second longer. At an orderly end one rank of a
// process at a time: the last one of a communicator frees what it has for all, and nobody else
// should be in the middle of letting go of it then.
void NcclState::free_all(List& list, bool orderly) {
  static std::timed_mutex one_rank;
  std::unique_lock<std::timed_mutex> turn(one_rank, std::defer_lock);
  if (orderly) (void)turn.try_lock_for(kEndTime);
  std::vector<std::shared_ptr<NcclComm>> comms;
  {
    const std::lock_guard lock(list.mutex);
    comms = list.comms;
  }
  ncclGroupStart();
  for (const auto& comm : comms) {
    ncclComm_t handle = nullptr;
    {
      const std::lock_guard lock(comm->mutex);
      handle = std::exchange(comm->handle, nullptr);
    }
    if (handle != nullptr) ncclCommAbort(handle);
  }
  ncclGroupEnd();
}

}  // namespace shunt
