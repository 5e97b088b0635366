// Host kernel encoder_attention: every token of a sequence sees all of them. A task is one query
// head of one token. Test: tests/runtime/host/attention_test.cpp.
#include <cstring>

#include "runtime/host/kernels/paged.h"

namespace shunt::host {

void encoder_attention(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* q = args.floats();  // [T, heads, d]
  const float* k = args.floats();  // [T, kv_heads, d]
  const float* v = args.floats();  // [T, kv_heads, dv]
  const int32_t* seq_starts = args.ints();
  const int64_t tokens = args.integer(), sequences = args.integer();
  const int64_t heads = args.integer(), kv_heads = args.integer();
  const int64_t d = args.integer(), dv = args.integer();
  const float scale = args.real();
  auto* out = args.pointer<float>();  // [T, heads * dv]
  args.done();
  for (int64_t s = 0; s < sequences; ++s) {
    SHUNT_CHECK(
        seq_starts[s] >= 0 && seq_starts[s] <= seq_starts[s + 1] && seq_starts[s + 1] <= tokens,
        "seq_starts {}, {} with {} tokens", seq_starts[s], seq_starts[s + 1], tokens);
  }
  const Simd& simd_table = simd();
  for_rows(pool, tokens, heads * (d + dv) * 64, [&](int64_t t, int worker) {
    const int64_t s = sequence_of(seq_starts, sequences, t);
    if (s < 0) return;
    const int64_t begin = seq_starts[s], keys = seq_starts[s + 1] - begin;
    auto* p = static_cast<float*>(pool.scratch(worker, static_cast<size_t>(keys) * sizeof(float)));
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t kv_head = h / (heads / kv_heads);
      const float* row = q + (t * heads + h) * d;
      simd_table.dot(&row, 1, k + (begin * kv_heads + kv_head) * d, DType::f32, kv_heads * d, keys,
                     d, p, keys);
      for (int64_t j = 0; j < keys; ++j) p[j] *= scale;
      const float total = simd_table.exp_sum(p, p, simd_table.max(p, keys), keys);
      float* mixed = out + (t * heads + h) * dv;
      std::fill_n(mixed, dv, 0.0f);
      for (int64_t j = 0; j < keys; ++j) {
        const float weight = p[j] / total;
        const float* value = v + ((begin + j) * kv_heads + kv_head) * dv;
        for (int64_t c = 0; c < dv; ++c) mixed[c] += weight * value[c];
      }
    }
  });
}

}  // namespace shunt::host
