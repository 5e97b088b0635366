// The CUDA runtime behind device.h. Kernels are loaded through its library API, so that nothing
// links libcuda. Tested without a GPU by tests/runtime/session/device_test.cpp; with one by every
// test of label gpu.
#include "runtime/device.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstring>

#include "ir/error.h"

namespace shunt {

namespace {

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that a later call does not report this error again
  throw DeviceError(
      fmt::format("{}: {} ({})", call, cudaGetErrorString(status), cudaGetErrorName(status)));
}

cudaStream_t raw(const Stream& stream) { return static_cast<cudaStream_t>(stream.get()); }

}  // namespace

namespace detail {
// Destructors: an error here was reported by the call that caused it.
void free_device(void* p) { cudaFree(p); }
void free_pinned(void* p) { cudaFreeHost(p); }
void destroy_stream(void* p) { cudaStreamDestroy(static_cast<cudaStream_t>(p)); }
void destroy_event(void* p) { cudaEventDestroy(static_cast<cudaEvent_t>(p)); }
void destroy_graph(void* p) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(p)); }
void unload_library(void* p) { cudaLibraryUnload(static_cast<cudaLibrary_t>(p)); }
}  // namespace detail

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

int usable_devices(std::string_view target) {
  const int count = device_count();
  if (count == 0) {
    plan_error(
        "the plan is for {} and this machine has no usable GPU: compile it with --target cpu",
        target);
  }
  return count;
}

DeviceInfo device_info(int device) {
  use_device(device);
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return {properties.name, properties.major * 10 + properties.minor, properties.multiProcessorCount,
          static_cast<int64_t>(total_bytes), static_cast<int64_t>(free_bytes)};
}

bool devices_reach_each_other(int count) {
  const int devices = device_count();
  if (devices < count) return false;
  for (int a = 0; a < devices; ++a) {
    for (int b = 0; b < devices; ++b) {
      int can = 1;
      if (a != b) check(cudaDeviceCanAccessPeer(&can, a, b), "cudaDeviceCanAccessPeer");
      if (can == 0) return false;
    }
  }
  return true;
}

void use_device(int device) { check(cudaSetDevice(device), "cudaSetDevice"); }

DeviceBuffer::DeviceBuffer(int64_t bytes, const char* purpose) : bytes_(bytes) {
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, static_cast<size_t>(bytes > 0 ? bytes : 1));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    throw DeviceError(
        fmt::format("out of GPU memory: {} MiB for {} do not fit, {} of {} MiB are free",
                    bytes >> 20, purpose, free_bytes >> 20, total_bytes >> 20));
  }
  check(status, "cudaMalloc");
  memory_ = Handle<detail::free_device>(p);
}

PinnedBuffer::PinnedBuffer(int64_t bytes, const char* purpose) : bytes_(bytes) {
  void* p = nullptr;
  const cudaError_t status =
      cudaHostAlloc(&p, static_cast<size_t>(bytes > 0 ? bytes : 1), cudaHostAllocDefault);
  if (status != cudaSuccess)
    check(status, fmt::format("cudaHostAlloc of {} bytes for {}", bytes, purpose).c_str());
  memory_ = Handle<detail::free_pinned>(p);
  std::memset(p, 0, static_cast<size_t>(bytes));
}

Stream::Stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  stream_ = Handle<detail::destroy_stream>(stream);
}

void Stream::synchronize() { check(cudaStreamSynchronize(raw(*this)), "cudaStreamSynchronize"); }

void Stream::record(Event& event) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event.get()), raw(*this)), "cudaEventRecord");
}

Event::Event(bool timing) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, timing ? cudaEventDefault : cudaEventDisableTiming),
        "cudaEventCreateWithFlags");
  event_ = Handle<detail::destroy_event>(event);
}

void Event::synchronize() {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_.get())), "cudaEventSynchronize");
}

double Event::seconds_since(const Event& start) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start.get()),
                             static_cast<cudaEvent_t>(event_.get())),
        "cudaEventElapsedTime");
  return milliseconds * 1e-3;
}

void copy_to_device(void* to, const void* from, int64_t bytes, Stream& stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, raw(stream)),
        "cudaMemcpyAsync to the device");
}

void copy_to_host(void* to, const void* from, int64_t bytes, Stream& stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, raw(stream)),
        "cudaMemcpyAsync to the host");
}

void copy_on_device(void* to, const void* from, int64_t bytes, Stream& stream) {
  check(
      cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, raw(stream)),
      "cudaMemcpyAsync on the device");
}

void copy_2d_to_device(void* to, int64_t to_pitch, const void* from, int64_t from_pitch,
                       int64_t row_bytes, int64_t rows, Stream& stream) {
  if (rows == 1 || (to_pitch == row_bytes && from_pitch == row_bytes)) {
    return copy_to_device(to, from, row_bytes * rows, stream);
  }
  check(cudaMemcpy2DAsync(to, static_cast<size_t>(to_pitch), from, static_cast<size_t>(from_pitch),
                          static_cast<size_t>(row_bytes), static_cast<size_t>(rows),
                          cudaMemcpyHostToDevice, raw(stream)),
        "cudaMemcpy2DAsync");
}

void fill_device(void* to, int value, int64_t bytes, Stream& stream) {
  check(cudaMemsetAsync(to, value & 255, static_cast<size_t>(bytes), raw(stream)),
        "cudaMemsetAsync");
}

Library::Library(std::span<const char> cubin, std::string name) : name_(std::move(name)) {
  cudaLibrary_t library = nullptr;
  const cudaError_t status =
      cudaLibraryLoadData(&library, cubin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (status != cudaSuccess) check(status, fmt::format("cudaLibraryLoadData of {}", name_).c_str());
  library_ = Handle<detail::unload_library>(library);
}

KernelHandle Library::kernel(const std::string& symbol) const {
  cudaKernel_t kernel = nullptr;
  cudaError_t status =
      cudaLibraryGetKernel(&kernel, static_cast<cudaLibrary_t>(library_.get()), symbol.c_str());
  if (status == cudaSuccess) {
    cudaFuncAttributes attributes;
    status = cudaFuncGetAttributes(&attributes, kernel);
  }
  if (status != cudaSuccess)
    check(status, fmt::format("loading kernel {} of {}", symbol, name_).c_str());
  return {kernel};
}

void allow_launch(KernelHandle kernel, int64_t max_smem, int max_cluster) {
  if (max_smem > 0) {  // what is static counts, too, against the 48 KiB that need no leave
    check(cudaFuncSetAttribute(kernel.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(max_smem)),
          "cudaFuncSetAttribute of the dynamic shared memory");
  }
  if (max_cluster > 8) {
    check(cudaFuncSetAttribute(kernel.kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "cudaFuncSetAttribute of the cluster size");
  }
}

void launch(KernelHandle kernel, const LaunchConfig& config, void** args, Stream& stream) {
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  if (config.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(config.cluster);
    attributes[count].val.clusterDim.y = 1;
    attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  if (config.dependent) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count].val.programmaticStreamSerializationAllowed = 1;
    ++count;
  }
  cudaLaunchConfig_t c = {};
  c.gridDim = {config.grid[0], config.grid[1], config.grid[2]};
  c.blockDim = {config.threads, 1, 1};
  c.dynamicSmemBytes = config.smem;
  c.stream = raw(stream);
  c.attrs = attributes;
  c.numAttrs = count;
  check(cudaLaunchKernelExC(&c, kernel.kernel, args), "cudaLaunchKernelExC");
}

Graph Graph::capture(Stream& stream, const std::function<void()>& work) {
  check(cudaStreamBeginCapture(raw(stream), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(raw(stream), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(raw(stream), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  Graph result;
  result.exec_ = Handle<detail::destroy_graph>(exec);
  return result;
}

void Graph::launch(Stream& stream) const {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(exec_.get()), raw(stream)), "cudaGraphLaunch");
}

}  // namespace shunt
