// Threads and worlds of several ranks. Entry point: the constructor. Tested by
// tests/tools/mesh_test.cpp (threads on the cpu target), tests/runtime/comm/rank_process_test.cpp
// (processes) and on GPUs by tools/device_check.sh.
#include "runtime/ranks.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "ir/error.h"
#include "ir/target.h"
#include "runtime/checkpoint/digest.h"
#include "runtime/comm/in_process.h"
#include "runtime/comm/nccl.h"
#include "runtime/comm/rendezvous.h"
#include "runtime/device.h"
#include "runtime/host/thread_pool.h"

namespace shunt {

struct Ranks::Impl {
  Plan plan;
  std::filesystem::path directory;
  RanksOptions options;
  bool on_cpu = true;
  std::unique_ptr<InProcessWorld> threads_world;
  std::vector<std::thread> threads;
  // In this order: a session goes before the communicators it uses.
  std::unique_ptr<CommWorld> world;
  std::unique_ptr<Session> session;
  bool finished = false;

  int size() const { return plan.mesh.size(); }
  bool launched() const { return options.launch.world > 1; }

  void check() const {
    if (launched() && options.launch.world != size()) {
      user_error("the plan is for {} ranks ({}), and {} started {} processes", size(),
                 plan.mesh.to_string(), options.launch.source, options.launch.world);
    }
    if (on_cpu && launched()) {
      user_error("on the cpu target ranks are threads of one process: start one, not {} ({})",
                 options.launch.world, options.launch.source);
    }
    if (on_cpu) return;
    const int gpus = usable_devices(plan.target) - options.session.device;
    if (!launched() && size() > 1 && gpus < size()) {
      user_error(
          "the plan is for {} ranks ({}), and this machine has {} GPUs: start a process a "
          "rank with torchrun, mpirun or srun, or compile for fewer",
          size(), plan.mesh.to_string(), gpus);
    }
  }

  SessionOptions session_options(int rank) const {
    SessionOptions o = options.session;
    o.device += launched() ? options.launch.local_rank : rank;
    if (on_cpu) {
      const int all = o.threads > 0 ? o.threads : ThreadPool::default_threads();
      o.threads = std::max(1, all / size());
    }
    if (rank != 0) o.progress = nullptr, o.log = nullptr;
    return o;
  }

  std::unique_ptr<CommWorld> make_world(int rank) {
    if (on_cpu) return threads_world->join(rank);
    const int device = session_options(rank).device;
    use_device(device);
    return make_nccl_world({.control = control(rank), .device = device});
  }

  std::unique_ptr<ControlChannel> control(int rank) {
    if (!launched()) return threads_world->control(rank);
    RendezvousOptions r;
    r.rank = rank;
    r.world = size();
    r.address = options.launch.master_addr;
    r.port = options.launch.master_port;
    r.timeout = options.comm_timeout;
    r.fields = {{"program version", SHUNT_VERSION},
                {"plan", sha256_hex(to_json(plan))},
                {"rank map", plan.mesh.to_string()},
                {"NCCL version", nccl_version()}};
    return rendezvous(r);
  }

  /// A rank that is a thread: joins, loads, follows. Its failure is everybody's.
  void run_thread(int rank) {
    std::unique_ptr<CommWorld> mine;
    try {
      mine = make_world(rank);
      SessionOptions o = session_options(rank);
      o.world = mine.get();
      Session follower(plan, directory, o);
      follower.follow();
      mine->control().close();
    } catch (const std::exception& e) {
      if (mine != nullptr) {
        mine->abort(e.what());
      } else {
        threads_world->fail(fmt::format("rank {} failed: {}", rank, e.what()));
      }
    }
  }

  void start() {
    if (size() == 1) {
      session = std::make_unique<Session>(plan, directory, session_options(0));
      return;
    }
    const int rank = launched() ? options.launch.rank : 0;
    if (!launched()) {
      threads_world = std::make_unique<InProcessWorld>(size(), options.comm_timeout);
      for (int r = 1; r < size(); ++r) threads.emplace_back([this, r] { run_thread(r); });
    }
    try {
      world = make_world(rank);
      SessionOptions o = session_options(rank);
      o.world = world.get();
      session = std::make_unique<Session>(plan, directory, o);
    } catch (const std::exception& e) {
      stop(e.what());
      throw;
    }
  }

  /// Ends the other ranks by an error, if they have not ended yet.
  void stop(const char* reason) {
    if (world != nullptr && !finished) world->abort(reason);
    if (world == nullptr && threads_world != nullptr) threads_world->fail(reason);
    for (std::thread& t : threads) t.join();
    threads.clear();
    session.reset();
    world.reset();
  }
};

Ranks::Ranks(Plan plan, const std::filesystem::path& plan_directory, RanksOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->on_cpu = find_target(plan.target).is_cpu();
  impl_->plan = std::move(plan);
  impl_->directory = plan_directory;
  impl_->options = std::move(options);
  impl_->check();
  impl_->start();
}

Ranks::~Ranks() { impl_->stop("rank 0 went away"); }

Session& Ranks::session() { return *impl_->session; }

bool Ranks::leads() const { return impl_->world == nullptr || impl_->world->rank() == 0; }

void Ranks::follow() {
  impl_->session->follow();
  impl_->world->control().close();
  impl_->finished = true;
}

void Ranks::finish() {
  if (impl_->world == nullptr || impl_->finished) return;
  impl_->session->release();
  impl_->world->control().close();
  impl_->finished = true;
}

}  // namespace shunt
