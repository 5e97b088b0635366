// The inside of a Session, shared by session_start.cpp (prepare, initialise) and session.cpp (run).
#pragma once

#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "ir/target.h"
#include "runtime/device.h"
#include "runtime/program.h"
#include "runtime/session.h"

namespace shunt {

inline constexpr int64_t kArenaAlignment = 256;

inline int64_t align_up(int64_t n) {
  return (n + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
}

/// Host memory, aligned and zeroed (by the system, when first touched).
class HostBuffer {
 public:
  HostBuffer() = default;
  /// Throws UserError if the system has no such amount.
  HostBuffer(int64_t bytes, const char* purpose);
  std::byte* data() const;

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
};

using Sizes = StepSizes;

struct Session::Impl {
  /// A byte range of the io memory (from the dims array on) that a run uploads.
  struct Segment {
    int64_t begin, end;
  };
  struct Prepared {
    std::unique_ptr<BoundProgram> bound;
    std::vector<int> inputs;        // ports it reads, but forced.*
    std::vector<int> forced;        // ports forced.* it reads
    std::vector<Segment> segments;  // of `inputs`, merged
    Graph graph;
    bool warm = false;  // has run once, so that libraries have loaded their kernels
  };

  Session* self = nullptr;
  Plan plan;
  SessionOptions options;
  const Target* target = nullptr;
  Machine machine;
  Addresses addresses;
  MemoryUse memory;
  int64_t pages = 0;
  bool alive = true;

  std::unique_ptr<PeerMemory> peer_memory;  // of a plan with peer buffers
  DeviceBuffer device_peer_tables;
  DeviceBuffer device_weights, device_workspace, device_io, device_state, device_counters;
  HostBuffer host_weights, host_workspace, host_io, host_state, host_counters;
  std::byte* gathered = nullptr;   // counters of all ranks; of one rank: its own
  PinnedBuffer mirror;             // of the io memory, on a GPU
  std::byte* io_host = nullptr;    // dims array, then the io arena, as the host sees them
  std::optional<Event> uploaded;   // when the device has taken the last inputs
  bool upload_pending = false;     // nobody has waited for that yet
  std::vector<char> forced_dirty;  // by port
  int dim_T = -1, dim_S = -1, dim_R = -1;
  std::vector<int64_t> dims;  // of the run in progress, in the order of plan.dims
  std::vector<Prepared> programs;
  Sizes sizes;             // of this rank's dp group in the last run
  int64_t group_rows = 0;  // R that it ran with
  std::vector<HostBuffer>
      staged;  // rank 0: inputs of the dp groups above 0, laid out as the io arena

  bool cpu() const { return target->is_cpu(); }
  void activate() const {
    if (!cpu()) use_device(machine.gpu->device);
  }
  const Buffer& buffer_of(const Port& port) const {
    return plan.buffers[static_cast<size_t>(port.buffer)];
  }
  int64_t io_offset(const Buffer& b) const {
    return align_up(static_cast<int64_t>(plan.dims.size() * sizeof(int32_t))) + b.offset;
  }
  std::byte* host_of(const Buffer& b) const { return io_host + io_offset(b); }

  // ---- prepare and initialise (session_start.cpp) ----
  void prepare();
  void open_device();
  void place_states();
  void find_dims();
  void initialise(const std::filesystem::path& plan_directory);
  void load_kernels(const std::filesystem::path& plan_directory);
  void run_load(const Program& p, BoundProgram& bound);
  void write_constant(const Constant& c);
  void make_arenas();
  void make_counters();
  void join_ranks();
  void join_peers();
  void leave_peers();
  int64_t agree_on_pages(int64_t mine);
  int64_t choose_pages() const;
  void find_inputs(const Program& p, Prepared& prepared);

  // ---- run (session.cpp) ----
  bool uses_graph(const Prepared& p) const;
  int choose(bool decode, const Sizes& s) const;
  DimDecl range_of(const Program& p, int dim) const;
  bool holds(const Program& p, const Sizes& s, bool padded) const;
  void set_upper_dims(const Program& p);
  void set_dim(int dim, int64_t value);
  void run(Prepared& p, std::span<const Sizes> groups, StepObserver* observer,
           std::vector<StepTime>* times);
  void run_graph(Prepared& p);
  void run_steps(Prepared& p, StepObserver* observer, std::vector<StepTime>* times);
  void run_named(Prepared& p, size_t step, bool wait);
  StepTime step_time(const Step& s, double seconds) const;
  void observe(const Program& program, size_t step, StepObserver& observer);
  void pad(const Prepared& p, const Sizes& s, const Sizes& bucket);
  void pad_port(const Port& port, const Sizes& s, const Sizes& bucket);
  void write_true_dims(const Sizes& s);
  void upload(const Prepared& p);
  /// Before the host changes inputs: waits until the device has taken the last ones.
  void await_upload();
  void synchronize();
  void download(std::byte* to, const std::byte* from, int64_t bytes);
  void poison(Arena arena, int64_t bytes);
  const Port& port(std::string_view role) const;
  Prepared& sample_program(int64_t R);

  // ---- several ranks (session_ranks.cpp, session_peers.cpp) ----
  bool released = false;
  bool follows_eagerly = false;  // rank 0 runs this step without its graph, so all do
  bool starting = true;          // all ranks run by themselves: nobody is told
  bool leads() const { return machine.world != nullptr && machine.world->rank() == 0; }
  void send(const Prepared& p, std::span<const Sizes> groups, bool graph);
  std::byte* host_of(const Buffer& b, int group) {
    return group == 0 ? host_of(b) : staged[static_cast<size_t>(group) - 1].data() + b.offset;
  }
  int group() const { return plan.mesh.index(MeshAxis::dp, machine.rank()); }
  void receive(const StepDescriptor& step, std::span<const std::byte> payload);
  std::vector<int> ports_to_send(const Prepared& p) const;
  void gather_counters();
  std::vector<RouteCounts> read_counters();
  int64_t port_bytes(const Port& port, const Sizes& s) const;
};

}  // namespace shunt
