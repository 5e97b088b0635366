// Collectives through NCCL. Entry point: make_nccl_world(). Tested by
// tests/runtime/comm/nccl_test.cpp, which needs two GPUs.
#include "runtime/comm/nccl.h"

#include <fmt/format.h>

#include <utility>

#include "ir/error.h"
#include "runtime/comm/nccl_state.h"

namespace shunt {

namespace {

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return ncclFloat32;
    case DType::f16: return ncclFloat16;
    case DType::bf16: return ncclBfloat16;
    case DType::i32: return ncclInt32;
    default: break;
  }
  SHUNT_CHECK(false, "no sum of {} over ranks", dtype_name(dtype));
}

size_t bytes_of(int64_t count, DType dtype) {
  return static_cast<size_t>(count * dtype_bytes(dtype));
}
const char* part(const void* p, size_t index, size_t bytes) {
  return static_cast<const char*>(p) + index * bytes;
}
char* part(void* p, size_t index, size_t bytes) { return static_cast<char*>(p) + index * bytes; }

/// Sends part i of `send` to rank i and receives its part. To be called between ncclGroupStart and
/// ncclGroupEnd.
ncclResult_t exchange(const void* send, void* recv, size_t bytes, int ranks, ncclComm_t comm,
                      cudaStream_t stream) {
  for (int r = 0; r < ranks; ++r) {
    const auto i = static_cast<size_t>(r);
    if (const auto e = ncclSend(part(send, i, bytes), bytes, ncclUint8, r, comm, stream);
        e != ncclSuccess)
      return e;
    if (const auto e = ncclRecv(part(recv, i, bytes), bytes, ncclUint8, r, comm, stream);
        e != ncclSuccess)
      return e;
  }
  return ncclSuccess;
}

/// Queues all that `body` issues as one; the first error, else what the group's end says.
template <class Body>
ncclResult_t grouped(Body body) {
  if (const auto e = ncclGroupStart(); e != ncclSuccess) return e;
  const ncclResult_t inner = body();
  const ncclResult_t outer = ncclGroupEnd();
  return inner != ncclSuccess && inner != ncclInProgress ? inner : outer;
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<NcclState> state, CommGroup group)
      : Communicator(std::move(group), state->channel->rank()),
        state_(std::move(state)),
        comm_(state_->split(this->group())) {
    if (cudaMalloc(&token_, sizeof(int32_t)) != cudaSuccess)
      state_->fail("cudaMalloc of 4 bytes for barriers");
  }
  ~NcclCommunicator() override { cudaFree(token_); }

  void all_reduce(const void* send, void* recv, int64_t count, DType dtype, const CommSite& site,
                  void* stream) override {
    const ncclDataType_t type = nccl_type(dtype);
    state_->issue(*comm_, "all_reduce", site, [&](ncclComm_t comm) {
      return ncclAllReduce(send, recv, static_cast<size_t>(count), type, ncclSum, comm,
                           raw(stream));
    });
  }

  void all_gather(const void* send, void* recv, int64_t count, DType dtype, const CommSite& site,
                  void* stream) override {
    state_->issue(*comm_, "all_gather", site, [&](ncclComm_t comm) {
      return ncclAllGather(send, recv, bytes_of(count, dtype), ncclUint8, comm, raw(stream));
    });
  }

  void reduce_scatter(const void* send, void* recv, int64_t count, DType dtype,
                      const CommSite& site, void* stream) override {
    const ncclDataType_t type = nccl_type(dtype);
    state_->issue(*comm_, "reduce_scatter", site, [&](ncclComm_t comm) {
      return ncclReduceScatter(send, recv, static_cast<size_t>(count), type, ncclSum, comm,
                               raw(stream));
    });
  }

  void all_to_all(const void* send, void* recv, int64_t count, DType dtype, const CommSite& site,
                  void* stream) override {
    state_->issue(*comm_, "all_to_all", site, [&](ncclComm_t comm) {
      return grouped(
          [&] { return exchange(send, recv, bytes_of(count, dtype), size(), comm, raw(stream)); });
    });
  }

  void all_to_all_v(const void* send, const int32_t* send_counts, void* recv, int32_t* recv_counts,
                    int64_t slot_rows, int64_t row_elements, DType dtype, const CommSite& site,
                    void* stream) override {
    state_->issue(*comm_, "all_to_all_v", site, [&](ncclComm_t comm) {
      return grouped([&] {
        const auto e =
            exchange(send_counts, recv_counts, sizeof(int32_t), size(), comm, raw(stream));
        if (e != ncclSuccess) return e;
        return exchange(send, recv, bytes_of(slot_rows * row_elements, dtype), size(), comm,
                        raw(stream));
      });
    });
  }

  void broadcast(void* data, int64_t count, DType dtype, int root, const CommSite& site,
                 void* stream) override {
    state_->issue(*comm_, "broadcast", site, [&](ncclComm_t comm) {
      return ncclBroadcast(data, data, bytes_of(count, dtype), ncclUint8, root, comm, raw(stream));
    });
  }

  // The value is never looked at, and never set.
  void barrier(const CommSite& site, void* stream) override {
    state_->issue(*comm_, "barrier", site, [&](ncclComm_t comm) {
      return ncclAllReduce(token_, token_, 1, ncclInt32, ncclSum, comm, raw(stream));
    });
  }

  void abort(const std::string& reason) override { state_->abort(reason); }

 private:
  static cudaStream_t raw(void* stream) { return static_cast<cudaStream_t>(stream); }

  std::shared_ptr<NcclState> state_;
  std::shared_ptr<NcclComm> comm_;
  void* token_ = nullptr;
};

class NcclWorld final : public CommWorld {
 public:
  explicit NcclWorld(NcclOptions options)
      : state_(std::make_shared<NcclState>(std::move(options.control), options.device,
                                           options.init_timeout)) {}
  ControlChannel& control() override { return *state_->channel; }
  std::unique_ptr<Communicator> group(CommGroup group) override {
    return std::make_unique<NcclCommunicator>(state_, std::move(group));
  }
  std::unique_ptr<PeerMemory> peer_memory(int64_t bytes, const std::vector<int>& reach) override {
    return make_peer_memory(*state_->channel, state_->device, bytes, reach, state_->add_words());
  }
  void check() override { state_->check(); }
  void wait(void* stream, const CommSite& site) override {
    state_->wait(static_cast<cudaStream_t>(stream), site);
  }
  void abort(const std::string& reason) override { state_->abort(reason); }

 private:
  std::shared_ptr<NcclState> state_;
};

}  // namespace

std::unique_ptr<CommWorld> make_nccl_world(NcclOptions options) {
  return std::make_unique<NcclWorld>(std::move(options));
}

std::string nccl_version() {
  int version = 0;
  if (const auto result = ncclGetVersion(&version); result != ncclSuccess)
    throw DeviceError(fmt::format("ncclGetVersion: {}", ncclGetErrorString(result)));
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace shunt
