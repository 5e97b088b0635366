// Host kernel sample: logits -> ids, greedy or by temperature, top-k and top-p. Order among equal
// logits is by id, and the draw walks ids upwards, so that equal inputs give equal ids on every
// target. Test: tests/runtime/host/sample_test.cpp.
#include <cmath>
#include <cstring>

#include "runtime/host/kernels/args.h"

namespace shunt::host {
namespace {

int32_t greedy(const float* logits, int64_t vocab) {
  const float top = simd().max(logits, vocab);
  for (int64_t i = 0; i < vocab; ++i) {
    if (logits[i] == top) return static_cast<int32_t>(i);
  }
  return 0;
}

struct Sampler {
  const float* logits;  // [vocab]
  int64_t vocab;
  double inverse_temperature;
  float top;
  double* p;       // [vocab]: probabilities of kept ids (up to a factor), else 0
  int32_t* order;  // [vocab]

  double weight(int64_t id) const {
    return std::exp((static_cast<double>(logits[id]) - top) * inverse_temperature);
  }

  /// Keeps all ids.
  double keep_all() {
    double total = 0;
    for (int64_t i = 0; i < vocab; ++i) total += p[i] = weight(i);
    return total;
  }

  /// Keeps the first `k` ids in the order (logit desc, id asc), of them the shortest prefix that
  /// has `top_p` of the mass. A heap is popped only as far as needed.
  double keep_best(int64_t k, double top_p) {
    for (int64_t i = 0; i < vocab; ++i) order[i] = static_cast<int32_t>(i);
    const auto later = [&](int32_t a, int32_t b) {
      return logits[a] != logits[b] ? logits[a] < logits[b] : a > b;
    };
    std::make_heap(order, order + vocab, later);
    std::memset(p, 0, static_cast<size_t>(vocab) * sizeof(double));
    // The mass of all k is the unit of top_p; with k == vocab it needs no order.
    double mass = 0;
    if (k == vocab) {
      for (int64_t i = 0; i < vocab; ++i) mass += weight(i);
    }
    double kept = 0;
    int64_t n = 0;
    while (n < k && !(k == vocab && n > 0 && kept >= top_p * mass)) {
      std::pop_heap(order, order + vocab - n, later);
      const int32_t id = order[vocab - 1 - n];
      kept += p[id] = weight(id);
      ++n;
    }
    return k == vocab ? kept : drop_tail(n, top_p * kept);
  }

  /// Of the n ids popped, keeps the shortest prefix whose mass reaches `wanted`; returns it.
  double drop_tail(int64_t n, double wanted) {
    double kept = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t id = order[vocab - 1 - i];
      if (i > 0 && kept >= wanted) {
        p[id] = 0;
      } else {
        kept += p[id];
      }
    }
    return kept;
  }

  int32_t draw(double total, double uniform) const {
    double cumulative = 0;
    int32_t last = 0;
    for (int64_t i = 0; i < vocab; ++i) {
      if (p[i] == 0) continue;
      cumulative += p[i];
      last = static_cast<int32_t>(i);
      if (cumulative > uniform * total) return last;
    }
    return last;  // rounding left the sum below the draw
  }
};

}  // namespace

void sample(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* logits = args.floats();  // [R, V]
  const float* temperature = args.floats();
  const int32_t* top_k = args.ints();
  const float* top_p = args.floats();
  const float* uniform = args.floats();
  const int64_t rows = args.integer();
  const int64_t vocab = args.integer();
  auto* ids = args.pointer<int32_t>();
  args.done();
  pool.parallel_for(rows, [&](int64_t r, int worker) {
    const float* row = logits + r * vocab;
    if (temperature[r] <= 0) {
      ids[r] = greedy(row, vocab);
      return;
    }
    Sampler s{row,     vocab,  1.0 / static_cast<double>(temperature[r]), simd().max(row, vocab),
              nullptr, nullptr};
    s.p = static_cast<double*>(
        pool.scratch(worker, static_cast<size_t>(vocab) * (sizeof(double) + sizeof(int32_t))));
    s.order = reinterpret_cast<int32_t*>(s.p + vocab);
    const int64_t k = top_k[r] <= 0 ? vocab : std::min<int64_t>(top_k[r], vocab);
    const double total = k == vocab && top_p[r] >= 1.0f ? s.keep_all() : s.keep_best(k, top_p[r]);
    ids[r] = s.draw(total, uniform[r]);
  });
}

}  // namespace shunt::host
