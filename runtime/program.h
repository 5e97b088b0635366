// A plan's program, ready to run: addresses and kernels resolved, arguments laid out, and for every
// size that depends on dims a bound expression. Running one allocates nothing, looks nothing up and
// takes no lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "runtime/comm/comm.h"
#include "runtime/device.h"
#include "runtime/gemm.h"
#include "runtime/host/host.h"
#include "runtime/plan/plan.h"

namespace shunt {

/// Where a session's memory lies: host memory on the cpu target, device memory otherwise.
struct Addresses {
  std::array<std::byte*, kArenas> arenas = {};
  std::vector<std::byte*> states;  // by index of plan.states
  std::byte* dims =
      nullptr;  // int32 values in the order of plan.dims, read through Arg::Kind::dim_ptr

  /// PeerTables in device memory, by buffer and axis, read through Arg::Kind::peers.
  std::map<std::pair<int, MeshAxis>, std::byte*> peer_tables;

  std::byte* of(const Plan& plan, const Arg& arg) const;
};

/// What executes steps: a thread pool, or a GPU's stream with its kernels.
struct Machine {
  struct Gpu {
    int device = 0;
    Stream stream;
    std::vector<Library> libraries;
    std::vector<KernelHandle> kernels;  // by index of plan.kernels
    Gemm gemm;
  };
  std::unique_ptr<ThreadPool> pool;  // cpu
  std::unique_ptr<Gpu> gpu;          // or this
  // Of several ranks: who they are, and this rank's group along each axis that the plan uses.
  CommWorld* world = nullptr;
  std::array<std::unique_ptr<Communicator>, 5> groups;  // by MeshAxis
  int64_t step = 0;                                     // runs so far, the same on all ranks

  int rank() const { return world == nullptr ? 0 : world->rank(); }
  void* stream() const { return gpu ? gpu->stream.get() : nullptr; }
  /// Waits for all that is queued, with a deadline where other ranks take part.
  void wait(std::string_view loc);
};

/// Runs steps one by one or all in a row. Read and Constant steps are not executed here
/// (runtime/load.h).
class BoundProgram {
 public:
  /// Keeps references to all three; `machine` must have its kernels loaded.
  BoundProgram(const Plan& plan, const Program& program, const Addresses& addresses,
               Machine& machine);

  /// Evaluates every size that depends on dims. `dims` in the order of plan.dims. To be called
  /// before running.
  void set_dims(std::span<const int64_t> dims);
  void run_all();
  void run_one(size_t step);

  const Program& program() const { return program_; }

 private:
  enum class Kind : uint8_t { host, launch, matmul, copy, fill, collective, load };
  struct Bound {
    Kind kind;
    uint32_t index;  // into the vector of that kind
  };
  struct HostCall {
    HostKernel kernel;
    uint32_t first, count;  // slots_
  };
  struct GpuCall {
    KernelHandle kernel;
    LaunchConfig config;
    uint32_t first;  // pointers_
    int64_t grid[3];
  };
  struct MatmulCall {
    int shape;
    int64_t m;
    GemmOperands operands;
  };
  struct MemoryCall {  // copy, fill
    std::byte* to;
    const std::byte* from;
    int64_t bytes;
    int value;
  };
  struct CollectiveCall {
    Collective::Kind kind;
    Communicator* group;
    const std::byte* from;
    std::byte* to;
    int64_t count;
    DType dtype;
    int32_t op;            // index of the step
    std::string_view loc;  // the step's
  };
  /// An integer to recompute when dims change.
  struct Refresh {
    int64_t* to;
    DimExpr value;
  };

  void add(const Launch& launch);
  void add(const Matmul& matmul);
  void add(const Collective& collective, size_t step);
  void add_slot(const Arg& arg);
  int64_t bind(const DimExpr& value, int64_t* to);
  int64_t upper(const DimExpr& value) const;
  void run_launch(GpuCall& call);
  void run_collective(const CollectiveCall& call);

  const Plan& plan_;
  const Program& program_;
  const Addresses& addresses_;
  Machine& machine_;
  DimEnv upper_;
  std::vector<Bound> steps_;
  std::vector<HostCall> host_calls_;
  std::vector<GpuCall> gpu_calls_;
  std::vector<MatmulCall> matmuls_;
  std::vector<MemoryCall> memory_calls_;
  std::vector<CollectiveCall> collectives_;
  std::vector<HostSlot> slots_;  // arguments of all launches; sized once, since refreshes_ and
                                 // pointers_ point into it
  std::vector<void*> pointers_;  // gpu: address of every slot
  std::vector<Refresh> refreshes_;
  std::deque<HostExpr> exprs_;
};

}  // namespace shunt
