// A plan in memory, ready to run. Three stages, in this order, by the constructor: *prepare*
// (arenas, stream, thread pool: the only allocations), *initialise* (kernels, the load program),
// and then any number of *runs*. Policy (which requests, which pages) is the engine's
// (runtime/engine/engine.h).
//
//   shunt::Session session(shunt::load_plan("plan"), "plan", {});
//   auto tokens = session.input_as<int32_t>("tokens");   // fill tokens, positions, seq_starts,
//   kv_lens, ... session.run_step(/*decode=*/false, T, S, R); auto logits =
//   session.output_as<float>("logits", R * V);
//
// Inputs and outputs are ports of the plan, by role: tokens i32[T], positions i32[T], seq_starts
// i32[S+1], kv_lens i32[S], block_tables i32[S, B], state_slots i32[S] where the plan has slot
// states, logit_rows i32[R], logits f32[R, V]; of sampling temperature, top_k, top_p, uniform [R]
// and ids i32[R]; forced.N i32[T, k] where the plan has them (-1: not forced).
//
// A session is used by one thread at a time. Several sessions in one process are independent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/plan/plan.h"
#include "runtime/trace.h"

namespace shunt {

class CommWorld;
class Session;

struct SessionOptions {
  int device = 0;              // GPU index; ignored on the cpu target
  CommWorld* world = nullptr;  // of a plan for several ranks; must outlive the session
  int64_t kv_pages = 0;  // pages of paged state; 0: as many as the limits need, if memory allows
  double gpu_memory_utilization = 0.9;  // share of the GPU's memory that arenas and pages may take
  int64_t cpu_kv_bytes = int64_t{1}
                         << 30;  // the same bound on the cpu target (one full sequence always fits)
  int threads = 0;               // cpu target; 0: all cores
  bool cuda_graphs = true;       // decode programs run as graphs, captured at their second use
  bool capture_at_start = false;  // ... or all of them before the constructor returns
  bool sync_each_step =
      false;            // wait after every step, so that an error names the step that caused it
  bool poison = false;  // fill weights with NaN before they load, the workspace before every run
  std::filesystem::path
      model_directory;  // where the checkpoint is now; empty: where it was at compile time
  std::function<void(int64_t done, int64_t total)> progress;  // bytes of weights read
  std::function<void(const std::string&)> log;  // what is chosen at load (cuBLASLt algorithms)
};

/// Tokens, sequences and rows of logits of one dp group in a run. A group may be idle: all 0.
struct StepSizes {
  int64_t T = 0, S = 0, R = 0;
};

struct StepInfo {
  const Program* program = nullptr;
  const Step* step = nullptr;
  int index = 0;                // of the step in its program
  int64_t T = 0, S = 0, R = 0;  // sizes of this run
};

/// Called after every step of a run. The buffers that `info.step->writes` lists hold their values
/// then; later steps may reuse the memory.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void after_step(Session& session, const StepInfo& info) = 0;
};

struct MemoryUse {
  int64_t weights = 0, workspace = 0, io = 0;  // bytes
  int64_t state = 0;                           // of paged states: the KV cache
  int64_t slots = 0;                           // of slot states: recurrent layers
  int64_t counters = 0;                        // of routes; on several ranks also to gather them
  int64_t peer = 0;                            // what other ranks write
  int64_t total() const { return weights + workspace + io + state + slots + counters + peer; }
};

/// Routes to each expert of one MoE layer.
struct RouteCounts {
  std::string loc;  // of the gate, "model.layers.3.mlp"
  std::vector<int64_t> routes;
  bool operator==(const RouteCounts&) const = default;
};

/// What a session of this plan takes if requests may use `pages` pages.
MemoryUse memory_needed(const Plan& plan, int64_t pages);

class Session {
 public:
  /// `plan` must be valid (load_plan has checked it); `plan_directory` holds its kernels/.
  /// Throws UserError (no GPU for a GPU plan, a changed checkpoint, too few pages, ...) or
  /// DeviceError.
  Session(Plan plan, const std::filesystem::path& plan_directory, SessionOptions options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Plan& plan() const;
  bool on_cpu() const;
  /// Pages of state that requests may use: block table entries are in [0, pages()).
  int64_t pages() const;
  /// Rows of every slot state that requests may use: state_slots entries are in [0, slots()).
  int64_t slots() const { return plan().limits.max_num_seqs; }
  MemoryUse memory() const;
  /// False once a run failed on the device: nothing can be run any more.
  bool alive() const;

  bool has_port(std::string_view role) const;
  /// The host's copy of a port, to be filled before a run. Waits until an earlier run has taken the
  /// last contents, so it is to be called anew before each run. Throws InternalError if the plan
  /// has no such port.
  /// `group`: of a mesh with dp > 1, whose batch the contents are for; rank 0 has a copy for each.
  std::span<std::byte> input(std::string_view role, int group = 0);
  template <class T>
  std::span<T> input_as(std::string_view role, int group = 0) {
    const auto bytes = input(role, group);
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  /// The first `bytes` of a port after a run (-1: all); waits for the run.
  std::span<const std::byte> output(std::string_view role, int64_t bytes = -1);
  template <class T>
  std::span<const T> output_as(std::string_view role, int64_t count) {
    const auto bytes = output(role, count * static_cast<int64_t>(sizeof(T)));
    return {reinterpret_cast<const T*>(bytes.data()), static_cast<size_t>(count)};
  }

  /// Runs @step over T tokens of S sequences and makes R rows of logits; all at least 1. `decode`
  /// promises that every sequence has exactly one token (T == S). Inputs hold exactly these sizes;
  /// this pads them to the program's bucket where needed. Returns when the work is queued (cpu:
  /// done). With an observer the program runs step by step.
  void run_step(bool decode, int64_t T, int64_t S, int64_t R, StepObserver* observer = nullptr) {
    const StepSizes one{T, S, R};
    run_step(decode, {&one, 1}, observer);
  }
  /// The same for a batch of each dp group, at least one of them not idle. `logits` is that of
  /// group 0; `all_logits`, where the plan has it, holds group g's from row g * group_rows() on.
  void run_step(bool decode, std::span<const StepSizes> groups, StepObserver* observer = nullptr);
  /// Runs @sample over the first R rows of logits.
  void run_sample(int64_t R, StepObserver* observer = nullptr) { run_sample({&R, 1}, observer); }
  /// The same by dp group; `ids` holds group g's from g * group_rows() on.
  void run_sample(std::span<const int64_t> rows, StepObserver* observer = nullptr);
  /// Rows that each dp group has in what the last run gathered: the largest R, padded to its bucket
  /// where the run was a graph.
  int64_t group_rows() const;
  /// dp groups of the plan's mesh: each has pages and slots of its own, and a batch.
  int groups() const { return plan().mesh.dp; }
  /// run_step, timing every step by itself (which costs overlap between them).
  std::vector<StepTime> run_step_timed(bool decode, int64_t T, int64_t S, int64_t R);
  /// Waits for everything queued.
  void synchronize();
  /// Routes that experts have computed since load, by MoE layer in the order of the model; empty
  /// for a dense model. Always counted. Neither padding nor a route dropped by a capacity counts,
  /// and ranks that share a batch count it once: the sum is over dp groups. Waits for all that is
  /// queued (on several ranks: a gathering that all take part in). Rank 0 only.
  std::vector<RouteCounts> route_counts();

  /// Of several ranks, on all but rank 0: runs what rank 0 runs, with its inputs, until rank 0
  /// calls release() (or its session ends). Throws as run_step() does, and DeviceError if a rank
  /// failed.
  void follow();
  /// On rank 0: ends follow() on the others. Called by the destructor too, unless a rank failed.
  void release();

  /// The program that run_step would take; for `bench` and tests.
  const Program& step_program(bool decode, int64_t T, int64_t S, int64_t R) const;

  /// Index of the buffer named `name` that a step of `program` writes, or -1. For observers.
  int find_buffer(const Program& program, std::string_view name) const;
  /// The buffer's contents at the sizes of the run in progress, in its own type.
  void read_buffer(int buffer, std::vector<std::byte>& out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shunt
