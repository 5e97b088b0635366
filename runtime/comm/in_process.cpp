// Collectives between threads over host memory. Entry point: InProcessWorld::join(). In each of
// them every rank publishes its pointers, meets the others, does its own share of the copying and
// adding, and meets them again. Tested by tests/runtime/comm/in_process_test.cpp.
#include "runtime/comm/in_process.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "ir/error.h"
#include "runtime/comm/in_process_hub.h"

namespace shunt {

namespace {

const std::byte* at(const void* p, int64_t offset) {
  return static_cast<const std::byte*>(p) + offset;
}
std::byte* at(void* p, int64_t offset) { return static_cast<std::byte*>(p) + offset; }

void copy(void* to, const void* from, int64_t bytes) {
  if (to != from && bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

class InProcessCommunicator final : public Communicator {
 public:
  InProcessCommunicator(std::shared_ptr<InProcessHub> hub, CommGroup group, int world_rank)
      : Communicator(std::move(group), world_rank),
        hub_(std::move(hub)),
        g_(hub_->group(this->group())) {}

  // Each rank adds its share of the elements and writes it to all: nobody else touches that share.
  void all_reduce(const void* send, void* recv, int64_t count, DType dtype, const CommSite& site,
                  void*) override {
    check_sum(dtype);
    enter({.op = "all_reduce",
           .site = site,
           .count = count,
           .dtype = dtype,
           .send = send,
           .recv = recv});
    std::vector<const void*> sources;
    std::vector<void*> targets;
    for (const InProcessCall& call : g_.calls) {
      sources.push_back(call.send);
      targets.push_back(call.recv);
    }
    in_process_sum(dtype, sources, targets, count * rank() / size(), count * (rank() + 1) / size());
    hub_->leave(g_);
  }

  void all_gather(const void* send, void* recv, int64_t count, DType dtype, const CommSite& site,
                  void*) override {
    enter({.op = "all_gather", .site = site, .count = count, .dtype = dtype, .send = send});
    const int64_t bytes = count * dtype_bytes(dtype);
    for (int r = 0; r < size(); ++r) copy(at(recv, r * bytes), peer(r).send, bytes);
    hub_->leave(g_);
  }

  void reduce_scatter(const void* send, void* recv, int64_t count, DType dtype,
                      const CommSite& site, void*) override {
    check_sum(dtype);
    enter({.op = "reduce_scatter", .site = site, .count = count, .dtype = dtype, .send = send});
    const int64_t bytes = count * dtype_bytes(dtype);
    std::vector<const void*> sources;
    for (const InProcessCall& call : g_.calls) sources.push_back(at(call.send, rank() * bytes));
    in_process_sum(dtype, sources, {recv}, 0, count);
    hub_->leave(g_);
  }

  void all_to_all(const void* send, void* recv, int64_t count, DType dtype, const CommSite& site,
                  void*) override {
    enter({.op = "all_to_all", .site = site, .count = count, .dtype = dtype, .send = send});
    const int64_t bytes = count * dtype_bytes(dtype);
    for (int r = 0; r < size(); ++r)
      copy(at(recv, r * bytes), at(peer(r).send, rank() * bytes), bytes);
    hub_->leave(g_);
  }

  void all_to_all_v(const void* send, const int32_t* send_counts, void* recv, int32_t* recv_counts,
                    int64_t slot_rows, int64_t row_elements, DType dtype, const CommSite& site,
                    void*) override {
    for (int r = 0; r < size(); ++r)
      SHUNT_CHECK(send_counts[r] >= 0 && send_counts[r] <= slot_rows,
                  "{}: {} rows for rank {} of at most {}", site_text("all_to_all_v", site),
                  send_counts[r], r, slot_rows);
    const int64_t row_bytes = row_elements * dtype_bytes(dtype);
    enter({.op = "all_to_all_v",
           .site = site,
           .count = slot_rows,
           .dtype = dtype,
           .send = send,
           .send_counts = send_counts,
           .row_bytes = row_bytes});
    for (int r = 0; r < size(); ++r) {
      recv_counts[r] = peer(r).send_counts[rank()];
      copy(at(recv, r * slot_rows * row_bytes), at(peer(r).send, rank() * slot_rows * row_bytes),
           recv_counts[r] * row_bytes);
    }
    hub_->leave(g_);
  }

  void broadcast(void* data, int64_t count, DType dtype, int root, const CommSite& site,
                 void*) override {
    SHUNT_CHECK(root >= 0 && root < size(), "broadcast from rank {} of {}", root, size());
    enter({.op = "broadcast",
           .site = site,
           .count = count,
           .dtype = dtype,
           .root = root,
           .send = data});
    copy(data, peer(root).send, count * dtype_bytes(dtype));
    hub_->leave(g_);
  }

  void barrier(const CommSite& site, void*) override {
    enter({.op = "barrier", .site = site});
    hub_->leave(g_);
  }

  void abort(const std::string& reason) override {
    hub_->fail(
        fmt::format("rank {} failed: {}", group().ranks[static_cast<size_t>(rank())], reason));
  }

 private:
  void enter(const InProcessCall& call) { hub_->enter(g_, rank(), call); }
  const InProcessCall& peer(int r) const { return g_.calls[static_cast<size_t>(r)]; }
  // Before meeting the others: nothing may throw while they read this rank's memory.
  static void check_sum(DType dtype) {
    SHUNT_CHECK(
        dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::i32,
        "no sum of {} over ranks", dtype_name(dtype));
  }

  std::shared_ptr<InProcessHub> hub_;
  InProcessHub::Group& g_;
};

class InProcessCommWorld final : public CommWorld {
 public:
  InProcessCommWorld(const std::shared_ptr<InProcessHub>& hub, int rank)
      : hub_(hub), control_(hub, rank) {}
  ControlChannel& control() override { return control_; }
  std::unique_ptr<Communicator> group(CommGroup group) override {
    return std::make_unique<InProcessCommunicator>(hub_, std::move(group), control_.rank());
  }
  std::unique_ptr<PeerMemory> peer_memory(int64_t, const std::vector<int>&) override {
    SHUNT_CHECK(false, "peer memory is for GPUs");
  }
  void check() override { control_.check(); }
  void wait(void*, const CommSite&) override { control_.check(); }
  void abort(const std::string& reason) override { control_.fail(reason); }

 private:
  std::shared_ptr<InProcessHub> hub_;
  InProcessControl control_;
};

}  // namespace

InProcessWorld::InProcessWorld(int size, Milliseconds timeout)
    : hub_(std::make_shared<InProcessHub>(size, timeout)) {
  SHUNT_CHECK(size > 0, "a world of {} ranks", size);
}

std::unique_ptr<CommWorld> InProcessWorld::join(int rank) {
  return std::make_unique<InProcessCommWorld>(hub_, rank);
}

std::unique_ptr<ControlChannel> InProcessWorld::control(int rank) {
  return std::make_unique<InProcessControl>(hub_, rank);
}

void InProcessWorld::fail(const std::string& reason) { hub_->fail(reason); }

}  // namespace shunt
