// Host kernels of dispatch and combine: what stands before and after their exchange of messages
// (codegen/emit/dispatch.cpp). Test: tests/runtime/host/dispatch_test.cpp.
#include <cstring>

#include "runtime/host/kernels/args.h"
#include "runtime/host/kernels/route_slot.h"

namespace shunt::host {

namespace {

/// A token's message: its row, then k ids and k weights.
struct Message {
  float* row;
  int32_t* ids;
  float* weights;
  Message(std::byte* at, int64_t payload, int64_t k)
      : row(reinterpret_cast<float*>(at)),
        ids(reinterpret_cast<int32_t*>(at + payload)),
        weights(reinterpret_cast<float*>(ids + k)) {}
};

}  // namespace

void dispatch_pack(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* x = args.floats();      // [tokens, width]
  const int32_t* ids = args.ints();    // [tokens, k]
  const float* w = args.floats();      // [tokens, k]
  const float* table = args.floats();  // [experts, replicas, 3]
  const int64_t tokens = args.integer();
  const int32_t* true_tokens = args.ints();  // later ones are padding, and go nowhere
  const int64_t k = args.integer();
  const int64_t width = args.integer();
  RouteTable routes{table, args.integer(), 0};
  routes.replicas = args.integer();
  const int64_t ranks = args.integer();
  const int64_t base = args.integer();
  const int64_t stride = args.integer();
  const int64_t etp = args.integer();
  const int64_t payload = args.integer();
  const int64_t bytes = args.integer();
  auto* places = args.pointer<int32_t>();      // [tokens, ranks]
  auto* messages = args.pointer<std::byte>();  // [ranks, tokens, bytes]
  args.done();
  const int64_t valid = true_tokens != nullptr ? std::min<int64_t>(*true_tokens, tokens) : tokens;
  pool.parallel_for(ranks, [&](int64_t p, int) {
    const int64_t ep = (base + p * stride) / etp;
    std::byte* part = messages + p * tokens * bytes;
    int32_t sent = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      places[t * ranks + p] = -1;
      if (t >= valid) continue;
      const Message m(part + sent * bytes, payload, k);
      bool goes = false;
      for (int64_t j = 0; j < k; ++j) {
        m.ids[j] = routes.slot_of(ids[t * k + j], t, ep);
        goes |= m.ids[j] >= 0;
      }
      if (!goes) continue;
      std::memcpy(m.row, x + t * width, static_cast<size_t>(width) * sizeof(float));
      std::memcpy(m.weights, w + t * k, static_cast<size_t>(k) * sizeof(float));
      places[t * ranks + p] = sent++;
    }
    for (int64_t unused = sent; unused < tokens; ++unused)
      std::fill_n(Message(part + unused * bytes, payload, k).ids, k, -1);
  });
}

void dispatch_unpack(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  auto* messages = args.pointer<std::byte>();  // [rows, bytes]
  const int64_t rows = args.integer();
  const int64_t k = args.integer();
  const int64_t width = args.integer();
  const int64_t payload = args.integer();
  const int64_t bytes = args.integer();
  auto* x = args.pointer<float>();      // [rows, width]; what nobody sent stays as it was
  auto* ids = args.pointer<int32_t>();  // [rows, k]
  auto* w = args.pointer<float>();      // [rows, k]
  args.done();
  for_rows(pool, rows, width, [&](int64_t row, int) {
    const Message m(messages + row * bytes, payload, k);
    const bool sent = std::any_of(m.ids, m.ids + k, [](int32_t slot) { return slot >= 0; });
    std::copy_n(m.ids, k, ids + row * k);
    if (!sent) return std::fill_n(w + row * k, k, 0.0f), void();
    std::copy_n(m.weights, k, w + row * k);
    std::copy_n(m.row, width, x + row * width);
  });
}

void combine_places(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* received = args.floats();  // [ranks, tokens, width]
  const int32_t* places = args.ints();    // [tokens, ranks]
  const int64_t tokens = args.integer();
  const int64_t ranks = args.integer();
  const int64_t width = args.integer();
  auto* out = args.pointer<float>();  // [tokens, width]
  args.done();
  for_rows(pool, tokens, width * ranks, [&](int64_t t, int) {
    float* to = out + t * width;
    std::fill_n(to, width, 0.0f);
    for (int64_t p = 0; p < ranks; ++p) {
      const int32_t place = places[t * ranks + p];
      if (place < 0) continue;
      const float* from = received + (p * tokens + place) * width;
      for (int64_t c = 0; c < width; ++c) to[c] += from[c];
    }
  });
}

}  // namespace shunt::host
