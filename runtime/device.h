// Everything Shunt asks of the CUDA runtime, behind handles that free themselves. With gemm.cpp the
// only place that touches CUDA; this header names no CUDA type, so that nothing else needs its
// headers. Nothing links libcuda: without a driver the program starts, and device_count() is 0.
//
// All calls throw DeviceError that names the CUDA call. Memory belongs to the device that was
// current when it was made; a thread makes a device current with use_device().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>

namespace shunt {

/// Number of usable GPUs; 0 without a driver. Does not throw.
int device_count();
/// The same for a plan of `target`; throws PlanError if there are none.
int usable_devices(std::string_view target);

struct DeviceInfo {
  std::string name;  // "NVIDIA H200"
  int sm = 0;        // 90: compute capability 9.0
  int sm_count = 0;  // multiprocessors
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;  // now
};
DeviceInfo device_info(int device);

/// True if this process sees at least `count` GPUs, and each can reach the memory of every other.
bool devices_reach_each_other(int count);

/// Makes `device` the calling thread's.
void use_device(int device);

/// Owns one opaque CUDA handle; moves, does not copy.
template <void (*Destroy)(void*)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(void* handle) : handle_(handle) {}
  Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Handle() {
    if (handle_ != nullptr) Destroy(handle_);
  }
  void* get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  void* handle_ = nullptr;
};

namespace detail {
void free_device(void*);
void free_pinned(void*);
void destroy_stream(void*);
void destroy_event(void*);
void destroy_graph(void*);
void unload_library(void*);
}  // namespace detail

/// GPU memory, 256-byte aligned; contents undefined.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t bytes, const char* purpose);
  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  int64_t size() const { return bytes_; }

 private:
  Handle<detail::free_device> memory_;
  int64_t bytes_ = 0;
};

/// Page-locked host memory, zeroed: what asynchronous copies need.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes, const char* purpose);
  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  int64_t size() const { return bytes_; }

 private:
  Handle<detail::free_pinned> memory_;
  int64_t bytes_ = 0;
};

class Event;

/// A queue of device work. Does not synchronise with the legacy default stream.
class Stream {
 public:
  Stream();
  void* get() const { return stream_.get(); }
  /// Waits for everything queued so far; also reports errors of kernels that ran.
  void synchronize();
  void record(Event& event);

 private:
  Handle<detail::destroy_stream> stream_;
};

class Event {
 public:
  explicit Event(bool timing = false);
  void* get() const { return event_.get(); }
  /// Waits until the work before the last record() is done; at once if there was none.
  void synchronize();
  /// Seconds from `start` to this one; both made with timing and complete.
  double seconds_since(const Event& start) const;

 private:
  Handle<detail::destroy_event> event_;
};

// ---- copies and fills, all queued on `stream` ----
void copy_to_device(void* to, const void* from, int64_t bytes, Stream& stream);
void copy_to_host(void* to, const void* from, int64_t bytes, Stream& stream);
void copy_on_device(void* to, const void* from, int64_t bytes, Stream& stream);
/// `rows` runs of `row_bytes`, the pitches apart.
void copy_2d_to_device(void* to, int64_t to_pitch, const void* from, int64_t from_pitch,
                       int64_t row_bytes, int64_t rows, Stream& stream);
void fill_device(void* to, int value, int64_t bytes, Stream& stream);

// ---- kernels ----
/// A kernel of a Library; valid as long as that.
struct KernelHandle {
  void* kernel = nullptr;
};

/// A loaded cubin.
class Library {
 public:
  /// `name` is for messages.
  Library(std::span<const char> cubin, std::string name);
  /// Finds an extern "C" kernel and loads it, so that its first launch may be inside a graph
  /// capture.
  KernelHandle kernel(const std::string& symbol) const;

 private:
  Handle<detail::unload_library> library_;
  std::string name_;
};

struct LaunchConfig {
  uint32_t grid[3] = {1, 1, 1};
  uint32_t threads = 1;
  uint32_t smem = 0;  // dynamic shared memory, bytes
  int cluster = 1;    // blocks in a cluster along x
  bool dependent =
      false;  // programmatic stream serialization: may start before its predecessor ends
};

/// To be called once per kernel, before launches that need more than 48 KiB of dynamic shared
/// memory or clusters of more than 8 blocks.
void allow_launch(KernelHandle kernel, int64_t max_smem, int max_cluster);
/// `args[i]` is the address of the i-th parameter's value, which is copied before this returns.
void launch(KernelHandle kernel, const LaunchConfig& config, void** args, Stream& stream);

// ---- graphs ----
/// An instantiated CUDA graph.
class Graph {
 public:
  Graph() = default;
  /// Records what `work` queues on `stream`, without running it.
  static Graph capture(Stream& stream, const std::function<void()>& work);
  void launch(Stream& stream) const;
  explicit operator bool() const { return static_cast<bool>(exec_); }

 private:
  Handle<detail::destroy_graph> exec_;
};

}  // namespace shunt
