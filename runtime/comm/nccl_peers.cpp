// Allocating peer memory and reaching the other ranks'. Entry point: make_peer_memory(). Tested by
// tests/runtime/comm/nccl_test.cpp, which needs two GPUs.
#include "runtime/comm/nccl_peers.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>
#include <utility>

#include "ir/error.h"
#include "runtime/comm/wire.h"
#include "runtime/plan/peer_table.h"

namespace shunt {

namespace {

// What is opened by a handle is the whole block that the driver cut an allocation from: a multiple
// of its size shares it with nothing else.
constexpr int64_t kBlock = int64_t{2} << 20;
constexpr const char* kRemedy = "compile the model with --peer-memory off";

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw DeviceError(
      fmt::format("{}: {} ({})", call, cudaGetErrorString(status), cudaGetErrorName(status)));
}

/// The same in all threads of this process, and in no other process.
uint64_t process_token() {
  static const uint64_t token = [] {
    std::random_device random;
    return (uint64_t{random()} << 32 | random()) ^ static_cast<uint64_t>(::getpid());
  }();
  return token;
}

/// One running kernel of an operating system: the same in all containers on it.
std::string machine_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

/// How a rank's memory is reached by the others.
struct Exported {
  uint64_t process = 0;
  std::string machine;
  std::string bus;   // "0000:1b:00.0"
  std::string text;  // "GPU 2 (NVIDIA H200, 0000:1b:00.0)"
  int32_t device = 0;
  uint64_t address = 0;
  cudaIpcMemHandle_t handle{};

  std::string encode() const {
    BodyWriter body;
    body.value(process).text(machine).text(bus).text(text).value(device).value(address);
    return body.value(handle).body();
  }
  static Exported decode(std::string_view bytes) {
    BodyReader body(bytes);
    Exported e;
    e.process = body.value<uint64_t>();
    e.machine = body.text();
    e.bus = body.text();
    e.text = body.text();
    e.device = body.value<int32_t>();
    e.address = body.value<uint64_t>();
    e.handle = body.value<cudaIpcMemHandle_t>();
    SHUNT_CHECK(body.done(), "peer memory described in {} bytes", bytes.size());
    return e;
  }
};

Exported describe(int device, void* memory) {
  Exported e;
  e.process = process_token();
  e.machine = machine_id();
  char bus[32] = {};
  check(cudaDeviceGetPCIBusId(bus, sizeof bus, device), "cudaDeviceGetPCIBusId");
  e.bus = bus;
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  e.text = fmt::format("GPU {} ({}, {})", device, properties.name, bus);
  e.device = device;
  e.address = reinterpret_cast<uint64_t>(memory);
  // Not every driver exports (WSL, some virtual GPUs): then threads of one process still work.
  if (cudaIpcGetMemHandle(&e.handle, memory) != cudaSuccess) cudaGetLastError();
  return e;
}

class GpuPeerMemory final : public PeerMemory {
 public:
  GpuPeerMemory(ControlChannel& control, int device, int64_t bytes, const std::vector<int>& reach,
                std::shared_ptr<PeerWords> words)
      : control_(control), device_(device), words_(std::move(words)) {
    guard_offset_ = (bytes + 255) / 256 * 256;
    allocate(guard_offset_ + 256);
    const Exported mine = describe(device, own_);
    const auto all = control.gather("peer memory", mine.encode());
    at_.assign(all.size(), nullptr);
    opened_.assign(all.size(), 0);
    try {
      for (size_t rank = 0; rank < all.size(); ++rank) {
        const int r = static_cast<int>(rank);
        if (r == control.rank()) {
          at_[rank] = own_;
        } else if (std::count(reach.begin(), reach.end(), r) != 0) {
          open(mine, Exported::decode(all[rank]), r);
        }
      }
    } catch (...) {
      close();
      throw;  // own_ is left to the end of the process: others may have it open
    }
  }

  ~GpuPeerMemory() override {
    if (closed_ && control_.alive()) {
      cudaSetDevice(device_);
      cudaFree(own_);
      return;
    }
    words_->abort();
    close();
    new std::shared_ptr<PeerWords>(words_);  // as long as own_, whose guard points to it
  }

  std::byte* of(int rank) const override { return at_[static_cast<size_t>(rank)]; }
  std::byte* guard() const override { return own_ + guard_offset_; }

  void close() override {
    if (std::exchange(closed_, true)) return;
    cudaSetDevice(device_);
    for (size_t r = 0; r < at_.size(); ++r) {
      if (opened_[r] != 0) cudaIpcCloseMemHandle(at_[r]);
      at_[r] = nullptr;
    }
  }

 private:
  void allocate(int64_t bytes) {
    bytes = (bytes + kBlock - 1) / kBlock * kBlock;
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, static_cast<size_t>(bytes));
    if (status != cudaSuccess)
      check(status, fmt::format("cudaMalloc of {} MiB of peer memory", bytes >> 20).c_str());
    own_ = static_cast<std::byte*>(memory);
    check(cudaMemset(own_, 0, static_cast<size_t>(bytes)), "cudaMemset of peer memory");
    PeerGuard guard;
    guard.limit_ns = 2'000'000 * static_cast<uint64_t>(control_.timeout().count());
    guard.abort = words_->on_device(PeerWords::kAbort);
    guard.report = words_->on_device(PeerWords::kReport);
    check(cudaMemcpy(own_ + guard_offset_, &guard, sizeof guard, cudaMemcpyHostToDevice),
          "cudaMemcpy of the guard of peer memory");
    // Before another rank can write there.
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }

  void open(const Exported& mine, const Exported& other, int rank) {
    const auto refuse = [&](std::string_view why) {
      plan_error("the plan moves data between {} of rank {} and {} of rank {} directly, and {}: {}",
                 mine.text, control_.rank(), other.text, rank, why, kRemedy);
    };
    if (other.machine != mine.machine) refuse("they are in different machines");
    int peer = 0;
    if (cudaDeviceGetByPCIBusId(&peer, other.bus.c_str()) != cudaSuccess) {
      cudaGetLastError();
      refuse("this process does not see the latter (CUDA_VISIBLE_DEVICES?)");
    }
    int can = 0;
    check(cudaDeviceCanAccessPeer(&can, device_, peer), "cudaDeviceCanAccessPeer");
    if (can == 0) refuse("they cannot reach each other's memory");
    const auto index = static_cast<size_t>(rank);
    if (other.process == mine.process) {
      const cudaError_t status = cudaDeviceEnablePeerAccess(peer, 0);
      if (status == cudaErrorPeerAccessAlreadyEnabled) {
        cudaGetLastError();
      } else {
        check(status, "cudaDeviceEnablePeerAccess");
      }
      at_[index] = reinterpret_cast<std::byte*>(other.address);
      return;
    }
    void* memory = nullptr;
    const cudaError_t status =
        cudaIpcOpenMemHandle(&memory, other.handle, cudaIpcMemLazyEnablePeerAccess);
    if (status != cudaSuccess) {
      cudaGetLastError();
      refuse(fmt::format("cudaIpcOpenMemHandle says: {}", cudaGetErrorString(status)));
    }
    at_[index] = static_cast<std::byte*>(memory);
    opened_[index] = 1;
  }

  ControlChannel& control_;
  const int device_;
  const std::shared_ptr<PeerWords> words_;
  std::byte* own_ = nullptr;
  int64_t guard_offset_ = 0;
  std::vector<std::byte*> at_;  // by rank of the world
  std::vector<char> opened_;    // by handle
  bool closed_ = false;
};

}  // namespace

PeerWords::PeerWords() {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, 2 * sizeof(uint32_t), cudaHostAllocMapped | cudaHostAllocPortable),
        "cudaHostAlloc of the words of peer memory");
  host_ = static_cast<uint32_t*>(memory);
  host_[kAbort] = host_[kReport] = 0;
  check(cudaHostGetDevicePointer(&memory, host_, 0), "cudaHostGetDevicePointer");
  device_ = static_cast<uint32_t*>(memory);
}

PeerWords::~PeerWords() { cudaFreeHost(host_); }

void PeerWords::abort() { __atomic_store_n(host_ + kAbort, 1u, __ATOMIC_RELEASE); }

bool PeerWords::gave_up() const { return __atomic_load_n(host_ + kReport, __ATOMIC_ACQUIRE) != 0; }

std::unique_ptr<PeerMemory> make_peer_memory(ControlChannel& control, int device, int64_t bytes,
                                             const std::vector<int>& reach,
                                             std::shared_ptr<PeerWords> words) {
  return std::make_unique<GpuPeerMemory>(control, device, bytes, reach, std::move(words));
}

}  // namespace shunt
