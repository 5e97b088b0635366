// Host kernels rope, kv_append and rope_append. Test: tests/runtime/host/rope_test.cpp.
#include <cmath>
#include <cstring>

#include "runtime/host/kernels/norm.h"
#include "runtime/host/kernels/paged.h"

namespace shunt::host {
namespace {

/// Cosines and sines of one token's angles, then rotations of its heads.
struct Rotation {
  const float* inv_freq = nullptr;  // [half]
  int64_t half = 0;                 // rotated pairs of a head
  bool interleaved = false;         // pairs (2i, 2i+1) instead of (i, i + half)
  float scale = 1;

  void angles(int32_t position, float* cosines, float* sines) const {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * inv_freq[i];
      cosines[i] = std::cos(angle) * scale;
      sines[i] = std::sin(angle) * scale;
    }
  }

  /// One head; out may be x.
  void rotate(float* out, const float* x, int64_t d, const float* cosines,
              const float* sines) const {
    const int64_t step = interleaved ? 2 : 1;
    const int64_t pair = interleaved ? 1 : half;
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[i * step], b = x[i * step + pair];
      out[i * step] = a * cosines[i] - b * sines[i];
      out[i * step + pair] = b * cosines[i] + a * sines[i];
    }
    if (out != x && 2 * half < d) {
      std::memcpy(out + 2 * half, x + 2 * half, static_cast<size_t>(d - 2 * half) * sizeof(float));
    }
  }
};

/// Checks on the calling thread that every token has a place; then workers only look it up.
void check_places(const int32_t* positions, const int32_t* seq_starts, int64_t tokens,
                  int64_t sequences, const Pages& pages) {
  const int64_t covered = sequences > 0 ? seq_starts[sequences] : 0;
  SHUNT_CHECK(covered <= tokens, "sequences have {} tokens of {}", covered, tokens);
  for (int64_t t = 0; t < covered; ++t) {
    SHUNT_CHECK(positions[t] >= 0 && positions[t] < pages.tables_width * pages.page_size,
                "position {} in pages for {}", positions[t], pages.tables_width * pages.page_size);
  }
}

struct RopeAppend {
  const float* qkv;  // [T, (heads + 2 * kv_heads) * d]
  const int32_t* positions;
  Rotation rotation;
  Weight q_norm, k_norm;
  const int32_t* seq_starts;
  Pages pages;
  float* k_state;  // rows [kv_heads, d]
  float* v_state;
  int64_t tokens, sequences, heads, kv_heads, d;
  HostHeadNorm norm;
  float eps, shift;
  float* out;                       // [T, heads, d]
  const float* q_weight = nullptr;  // norms as float32
  const float* k_weight = nullptr;

  /// Norm and rotation of `count` heads of one token, to `to`.
  void heads_of(float* to, const float* x, int64_t count, const float* weight, const float* cosines,
                const float* sines) const {
    if (norm == HostHeadNorm::full) rms_norm_row(to, x, weight, shift, eps, count * d);
    for (int64_t h = 0; h < count; ++h) {
      const float* from = norm == HostHeadNorm::none ? x + h * d : to + h * d;
      if (norm == HostHeadNorm::head) rms_norm_row(to + h * d, x + h * d, weight, shift, eps, d);
      if (rotation.half > 0) {
        rotation.rotate(to + h * d, from, d, cosines, sines);
      } else if (from != to + h * d) {
        std::memcpy(to + h * d, from, static_cast<size_t>(d) * sizeof(float));
      }
    }
  }
};

RopeAppend read_rope_append(std::span<const HostSlot> slots) {
  Args args(slots);
  RopeAppend r;
  r.qkv = args.floats();
  r.positions = args.ints();
  r.rotation.inv_freq = args.floats();
  r.q_norm = read_weight(args);
  r.k_norm = read_weight(args);
  r.seq_starts = args.ints();
  r.pages.block_tables = args.ints();
  r.k_state = args.pointer<float>();
  r.v_state = args.pointer<float>();
  r.tokens = args.integer();
  r.sequences = args.integer();
  r.pages.tables_width = args.integer();
  r.heads = args.integer();
  r.kv_heads = args.integer();
  r.d = args.integer();
  r.rotation.half = args.integer();
  r.pages.page_size = args.integer();
  r.norm = args.choice<HostHeadNorm>();
  r.eps = args.real();
  r.shift = args.flag() ? 1.0f : 0.0f;
  r.rotation.interleaved = args.flag();
  r.rotation.scale = args.real();
  r.out = args.pointer<float>();
  args.done();
  if (r.rotation.inv_freq == nullptr) r.rotation.half = 0;
  return r;
}

}  // namespace

void rope(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* x = args.floats();  // [T, heads, d]
  const int32_t* positions = args.ints();
  Rotation rotation;
  rotation.inv_freq = args.floats();
  const int64_t tokens = args.integer();
  const int64_t heads = args.integer();
  const int64_t d = args.integer();
  rotation.half = args.integer();
  rotation.interleaved = args.flag();
  rotation.scale = args.real();
  float* out = args.pointer<float>();
  args.done();
  for_rows(pool, tokens, heads * d, [&](int64_t t, int worker) {
    auto* cosines = static_cast<float*>(
        pool.scratch(worker, static_cast<size_t>(2 * rotation.half) * sizeof(float)));
    float* sines = cosines + rotation.half;
    rotation.angles(positions[t], cosines, sines);
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = (t * heads + h) * d;
      rotation.rotate(out + at, x + at, d, cosines, sines);
    }
  });
}

void kv_append(std::span<const HostSlot> slots, ThreadPool& pool) {
  Args args(slots);
  const float* k = args.floats();  // [T, h, d]
  const float* v = args.floats();  // [T, h, dv] or nullptr
  const int32_t* positions = args.ints();
  const int32_t* seq_starts = args.ints();
  Pages pages;
  pages.block_tables = args.ints();
  float* k_state = args.pointer<float>();
  float* v_state = args.pointer<float>();
  const int64_t tokens = args.integer();
  const int64_t sequences = args.integer();
  pages.tables_width = args.integer();
  const int64_t heads = args.integer();
  const int64_t k_row = heads * args.integer();
  const int64_t v_row = heads * args.integer();
  pages.page_size = args.integer();
  args.done();
  check_places(positions, seq_starts, tokens, sequences, pages);
  for_rows(pool, tokens, k_row + v_row, [&](int64_t t, int) {
    const int64_t s = sequence_of(seq_starts, sequences, t);
    if (s < 0) return;
    const int64_t row = pages.row(s, positions[t]);
    std::memcpy(k_state + row * k_row, k + t * k_row, static_cast<size_t>(k_row) * sizeof(float));
    if (v == nullptr) return;
    std::memcpy(v_state + row * v_row, v + t * v_row, static_cast<size_t>(v_row) * sizeof(float));
  });
}

void rope_append(std::span<const HostSlot> slots, ThreadPool& pool) {
  RopeAppend r = read_rope_append(slots);
  check_places(r.positions, r.seq_starts, r.tokens, r.sequences, r.pages);
  const int64_t q_width = r.heads * r.d, kv_width = r.kv_heads * r.d;
  if (r.norm != HostHeadNorm::none) {
    auto* buffer = static_cast<float*>(
        pool.scratch(-1, static_cast<size_t>(q_width + kv_width) * sizeof(float)));
    const bool full = r.norm == HostHeadNorm::full;
    r.q_weight = r.q_norm.floats(0, full ? q_width : r.d, buffer);
    r.k_weight = r.k_norm.floats(0, full ? kv_width : r.d, buffer + q_width);
  }
  const int64_t half = r.rotation.half;
  for_rows(pool, r.tokens, q_width + 2 * kv_width, [&](int64_t t, int worker) {
    auto* cosines =
        static_cast<float*>(pool.scratch(worker, static_cast<size_t>(2 * half) * sizeof(float)));
    float* sines = cosines + half;
    r.rotation.angles(r.positions[t], cosines, sines);
    const float* q = r.qkv + t * (q_width + 2 * kv_width);
    r.heads_of(r.out + t * q_width, q, r.heads, r.q_weight, cosines, sines);
    const int64_t s = sequence_of(r.seq_starts, r.sequences, t);
    if (s < 0) return;
    const int64_t row = r.pages.row(s, r.positions[t]);
    r.heads_of(r.k_state + row * kv_width, q + q_width, r.kv_heads, r.k_weight, cosines, sines);
    std::memcpy(r.v_state + row * kv_width, q + q_width + kv_width,
                static_cast<size_t>(kv_width) * sizeof(float));
  });
}

}  // namespace shunt::host
