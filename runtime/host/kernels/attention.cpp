// Host kernel attention: paged, causal, with window, chunk, softcap and sinks.
// A task is some queries of one sequence and one KV head (all query heads that share it: "lanes").
// Few lanes (decode): scores by dot products, one softmax over the whole context. Many (prefill):
// queries side by side in vector lanes, keys and values in blocks of a page, an online softmax, so
// that both products are matrix products. Test: tests/runtime/host/attention_test.cpp.
#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/host/kernels/paged.h"

namespace shunt::host {
namespace {

constexpr int64_t kFewLanes = 8;
constexpr int64_t kKeyBlock = 64;
constexpr int64_t kMaxLanes = 64;
constexpr float kNone = -std::numeric_limits<float>::infinity();

struct Attention {
  const float* q;  // [T, heads, d]
  const int32_t* seq_starts;
  const int32_t* kv_lens;
  Pages pages;
  const float* k;  // rows [kv_heads, d]
  const float* v;  // rows [kv_heads, v_stride], of which dv elements count
  Weight sinks;    // [heads] or none
  Weight slopes;   // [heads] or none: slope * (key - query position) is added to a score
  int64_t sequences, heads, kv_heads, d, dv, v_stride;
  float scale, softcap;
  int64_t window, chunk;
  float* out;  // [T, heads * dv]

  int64_t group() const { return heads / kv_heads; }
  /// Keys [lo, hi) visible to a query at `position`.
  int64_t lo(int64_t position) const {
    const int64_t from_window = window > 0 ? position - window + 1 : 0;
    const int64_t from_chunk = chunk > 0 ? position / chunk * chunk : 0;
    return std::max<int64_t>({0, from_window, from_chunk});
  }
  float sink(int64_t head) const {
    float one;
    return *sinks.floats(head, 1, &one);
  }
  float slope(int64_t head) const {
    float one;
    return *slopes.floats(head, 1, &one);
  }
};

/// Lanes [first, first + lanes) of one sequence and KV head; lane = query * group + head within the
/// group.
struct Task {
  int32_t sequence, kv_head;
  int64_t first, lanes;
};

/// What a task needs to know of its lanes.
struct Lanes {
  int64_t token[kMaxLanes], head[kMaxLanes];
  int32_t lo[kMaxLanes], hi[kMaxLanes];  // visible keys
  int32_t first_key = 0, last_key = 0;   // union of the ranges
  int32_t all_from = 0, all_to = 0;      // keys that every lane sees

  Lanes(const Attention& a, const Task& task) {
    const int64_t start = a.seq_starts[task.sequence];
    const int64_t fresh = a.seq_starts[task.sequence + 1] - start;
    const int64_t base = a.kv_lens[task.sequence] - fresh;  // position of the first new token
    for (int64_t i = 0; i < task.lanes; ++i) {
      const int64_t query = (task.first + i) / a.group();
      token[i] = start + query;
      head[i] = task.kv_head * a.group() + (task.first + i) % a.group();
      lo[i] = static_cast<int32_t>(a.lo(base + query));
      hi[i] = static_cast<int32_t>(base + query + 1);
    }
    // Both ends grow with the query.
    first_key = lo[0];
    last_key = hi[task.lanes - 1];
    all_from = lo[task.lanes - 1];
    all_to = hi[0];
  }
};

/// Calls f(first key, keys, row of state) for the pieces of [begin, end) that lie in one page,
/// kKeyBlock at most.
template <class F>
void for_key_blocks(const Attention& a, int64_t sequence, int64_t begin, int64_t end, F&& f) {
  while (begin < end) {
    const int64_t in_page = a.pages.page_size - begin % a.pages.page_size;
    const int64_t n = std::min({in_page, kKeyBlock, end - begin});
    f(begin, n, a.pages.row(sequence, begin));
    begin += n;
  }
}

void cap_scores(const Attention& a, float* s, int64_t n) {  // s is score / softcap
  simd().unary[static_cast<int>(Unary::tanh)](s, s, n);
  for (int64_t i = 0; i < n; ++i) s[i] *= a.softcap;
}

/// What multiplies q . k before the softcap's tanh, or before the softmax without one.
float score_scale(const Attention& a) { return a.softcap > 0 ? a.scale / a.softcap : a.scale; }

/// Rows of V as a panel whose width is a multiple of the vector: in place, or copied to `padded`.
const float* value_panel(const Attention& a, int64_t row, int64_t kv_head, int64_t keys,
                         float* padded, int64_t width, int64_t* ld) {
  const float* v = a.v + (row * a.kv_heads + kv_head) * a.v_stride;
  *ld = a.kv_heads * a.v_stride;
  if (width == a.dv) return v;
  for (int64_t j = 0; j < keys; ++j) {
    std::memcpy(padded + j * width, v + j * *ld, static_cast<size_t>(a.dv) * sizeof(float));
    std::fill(padded + j * width + a.dv, padded + (j + 1) * width, 0.0f);
  }
  *ld = width;
  return padded;
}

// ---- few lanes ----

struct FewScratch {
  int64_t context, width;  // keys; dv rounded up to vectors
  FewScratch(const Attention& a, int64_t keys)
      : context(round_up(keys, 16)), width(round_up(a.dv, simd().lanes)) {}
  size_t bytes() const {
    return static_cast<size_t>(kFewLanes * (context + width) + kKeyBlock * width) * sizeof(float);
  }
};

void few_scores(const Attention& a, const Task& task, const Lanes& lanes, float* scores,
                int64_t ld) {
  const Simd& v = simd();
  const float* rows[kFewLanes];
  for (int64_t i = 0; i < task.lanes; ++i)
    rows[i] = a.q + (lanes.token[i] * a.heads + lanes.head[i]) * a.d;
  for_key_blocks(
      a, task.sequence, lanes.first_key, lanes.last_key, [&](int64_t key, int64_t n, int64_t row) {
        const float* k = a.k + (row * a.kv_heads + task.kv_head) * a.d;
        for (int64_t i = 0; i < task.lanes; i += v.dot_rows) {
          const int count = static_cast<int>(std::min<int64_t>(v.dot_rows, task.lanes - i));
          v.dot(rows + i, count, k, DType::f32, a.kv_heads * a.d, n, a.d,
                scores + i * ld + key - lanes.first_key, ld);
        }
      });
}

/// Scores of one lane to probabilities, zero outside what it sees.
void few_softmax(const Attention& a, const Lanes& lanes, int64_t i, float* s) {
  const Simd& v = simd();
  float* seen = s + (lanes.lo[i] - lanes.first_key);
  const int64_t n = lanes.hi[i] - lanes.lo[i];
  const float scale = score_scale(a);
  for (int64_t j = 0; j < n; ++j) seen[j] *= scale;
  if (a.softcap > 0) cap_scores(a, seen, n);
  if (a.slopes) {
    const float slope = a.slope(lanes.head[i]);
    for (int64_t j = 0; j < n; ++j) seen[j] += slope * static_cast<float>(j - (n - 1));
  }
  float top = v.max(seen, n);
  if (a.sinks) top = std::max(top, a.sink(lanes.head[i]));
  float total = v.exp_sum(seen, seen, top, n);
  if (a.sinks) total += std::exp(a.sink(lanes.head[i]) - top);
  const float inverse = total > 0 ? 1.0f / total : 0.0f;
  for (int64_t j = 0; j < n; ++j) seen[j] *= inverse;
  std::fill(s, seen, 0.0f);
  std::fill(seen + n, s + (lanes.last_key - lanes.first_key), 0.0f);
}

void run_few(const Attention& a, const Task& task, ThreadPool& pool, int worker) {
  const Simd& v = simd();
  const Lanes lanes(a, task);
  const FewScratch layout(a, lanes.last_key - lanes.first_key);
  auto* scores = static_cast<float*>(pool.scratch(worker, layout.bytes()));  // [lanes, context]
  float* sums = scores + kFewLanes * layout.context;                         // [lanes, width]
  float* padded = sums + kFewLanes * layout.width;
  few_scores(a, task, lanes, scores, layout.context);
  for (int64_t i = 0; i < task.lanes; ++i) few_softmax(a, lanes, i, scores + i * layout.context);
  std::fill_n(sums, task.lanes * layout.width, 0.0f);
  for_key_blocks(
      a, task.sequence, lanes.first_key, lanes.last_key, [&](int64_t key, int64_t n, int64_t row) {
        int64_t ld;
        const float* values = value_panel(a, row, task.kv_head, n, padded, layout.width, &ld);
        for (int64_t c = 0; c < layout.width; c += 4 * v.lanes) {
          const int vectors = static_cast<int>(std::min<int64_t>(4, (layout.width - c) / v.lanes));
          // Three vectors are a panel of their own only where the table has it.
          const int step = vectors == 3 && v.panel_vectors < 3 ? 2 : vectors;
          for (int at = 0; at < vectors; at += step) {
            const int64_t column = c + at * v.lanes;
            v.gemm(scores + key - lanes.first_key, layout.context, 1, task.lanes, values + column,
                   ld, std::min(step, vectors - at), n, sums + column, layout.width, true);
          }
        }
      });
  for (int64_t i = 0; i < task.lanes; ++i) {
    std::memcpy(a.out + (lanes.token[i] * a.heads + lanes.head[i]) * a.dv, sums + i * layout.width,
                static_cast<size_t>(a.dv) * sizeof(float));
  }
}

// ---- many lanes ----

struct ManyScratch {
  int64_t qt, s, o, stats;
  explicit ManyScratch(const Attention& a)
      : qt(a.d * kMaxLanes), s(kKeyBlock * kMaxLanes), o(a.dv * kMaxLanes), stats(2 * kMaxLanes) {}
  size_t bytes() const { return static_cast<size_t>(qt + s + o + stats) * sizeof(float); }
};

/// qt[d, width] = scaled queries of the task, one a lane.
void pack_queries(const Attention& a, const Task& task, const Lanes& lanes, int64_t width,
                  float* qt) {
  const float scale = score_scale(a);
  std::fill_n(qt, a.d * width, 0.0f);
  for (int64_t i = 0; i < task.lanes; ++i) {
    const float* q = a.q + (lanes.token[i] * a.heads + lanes.head[i]) * a.d;
    for (int64_t c = 0; c < a.d; ++c) qt[c * width + i] = q[c] * scale;
  }
}

void add_slopes(const Attention& a, const Task& task, const Lanes& lanes, int64_t key, int64_t keys,
                int64_t width, float* s) {
  for (int64_t i = 0; i < task.lanes; ++i) {
    const float slope = a.slope(lanes.head[i]);
    for (int64_t j = 0; j < keys; ++j) {
      s[j * width + i] += slope * static_cast<float>(key + j - (lanes.hi[i] - 1));
    }
  }
}

void mask_block(const Task& task, const Lanes& lanes, int64_t key, int64_t keys, int64_t width,
                float* s) {
  for (int64_t j = 0; j < keys; ++j) {
    for (int64_t i = 0; i < task.lanes; ++i) {
      if (key + j < lanes.lo[i] || key + j >= lanes.hi[i]) s[j * width + i] = kNone;
    }
  }
}

void run_many(const Attention& a, const Task& task, ThreadPool& pool, int worker) {
  const Simd& v = simd();
  const Lanes lanes(a, task);
  const int vectors = static_cast<int>(ceil_div(task.lanes, v.lanes));
  const int64_t width = vectors * v.lanes;
  const ManyScratch layout(a);
  auto* qt = static_cast<float*>(pool.scratch(worker, layout.bytes()));  // [d, width]
  float* s = qt + layout.qt;                                             // [keys, width]
  float* o = s + layout.s;                                               // [dv, width]
  float* top = o + layout.o;                                             // [width]
  float* total = top + kMaxLanes;
  pack_queries(a, task, lanes, width, qt);
  std::fill_n(o, a.dv * width, 0.0f);
  for (int64_t i = 0; i < width; ++i) {
    const bool sink = a.sinks && i < task.lanes;
    top[i] = sink ? a.sink(lanes.head[i]) : kNone;
    total[i] = sink ? 1.0f : 0.0f;
  }
  for_key_blocks(
      a, task.sequence, lanes.first_key, lanes.last_key, [&](int64_t key, int64_t n, int64_t row) {
        const float* k = a.k + (row * a.kv_heads + task.kv_head) * a.d;
        v.gemm(k, a.kv_heads * a.d, 1, n, qt, width, vectors, a.d, s, width, false);
        if (a.softcap > 0) cap_scores(a, s, n * width);
        if (a.slopes) add_slopes(a, task, lanes, key, n, width, s);
        if (key < lanes.all_from || key + n > lanes.all_to)
          mask_block(task, lanes, key, n, width, s);
        v.softmax_block(s, n, vectors, top, total, o, a.dv);
        const float* values = a.v + (row * a.kv_heads + task.kv_head) * a.v_stride;
        v.gemm(values, 1, a.kv_heads * a.v_stride, a.dv, s, width, vectors, n, o, width, true);
      });
  for (int64_t i = 0; i < task.lanes; ++i) {
    float* out = a.out + (lanes.token[i] * a.heads + lanes.head[i]) * a.dv;
    const float inverse = total[i] > 0 ? 1.0f / total[i] : 0.0f;
    for (int64_t c = 0; c < a.dv; ++c) out[c] = o[c * width + i] * inverse;
  }
}

/// Calls f(task): long tasks (late queries) first, so that the end of the loop is even.
template <class F>
void for_each_task(const Attention& a, F&& f) {
  const int64_t most = simd().lanes * simd().panel_vectors;
  for (int64_t s = 0; s < a.sequences; ++s) {
    const int64_t lanes = (a.seq_starts[s + 1] - a.seq_starts[s]) * a.group();
    const int64_t size = lanes <= kFewLanes ? kFewLanes : most;
    for (int64_t tile = ceil_div(lanes, size) - 1; tile >= 0; --tile) {
      for (int64_t h = 0; h < a.kv_heads; ++h) {
        f(Task{static_cast<int32_t>(s), static_cast<int32_t>(h), tile * size,
               std::min(size, lanes - tile * size)});
      }
    }
  }
}

Attention read_attention(std::span<const HostSlot> slots, int64_t* tokens) {
  Args args(slots);
  Attention a;
  a.q = args.floats();
  a.seq_starts = args.ints();
  a.kv_lens = args.ints();
  a.pages.block_tables = args.ints();
  a.k = args.floats();
  a.v = args.floats();
  a.sinks = read_weight(args);
  a.slopes = read_weight(args);
  *tokens = args.integer();
  a.sequences = args.integer();
  a.pages.tables_width = args.integer();
  a.heads = args.integer();
  a.kv_heads = args.integer();
  a.d = args.integer();
  a.dv = args.integer();
  a.v_stride = a.v == nullptr ? a.d : a.dv;
  if (a.v == nullptr) a.v = a.k;
  a.pages.page_size = args.integer();
  a.scale = args.real();
  a.window = args.integer();
  a.chunk = args.integer();
  a.softcap = args.real();
  a.out = args.pointer<float>();
  args.done();
  return a;
}

void check(const Attention& a, int64_t tokens) {
  const int64_t capacity = a.pages.tables_width * a.pages.page_size;
  for (int64_t s = 0; s < a.sequences; ++s) {
    const int64_t fresh = a.seq_starts[s + 1] - a.seq_starts[s];
    SHUNT_CHECK(fresh >= 0 && a.seq_starts[s + 1] <= tokens && a.kv_lens[s] >= fresh &&
                    a.kv_lens[s] <= capacity,
                "sequence {} has {} new tokens of {}, in pages for {}", s, fresh, a.kv_lens[s],
                capacity);
  }
}

}  // namespace

void attention(std::span<const HostSlot> slots, ThreadPool& pool) {
  int64_t tokens;
  const Attention a = read_attention(slots, &tokens);
  check(a, tokens);
  int64_t count = 0;
  for_each_task(a, [&](const Task&) { ++count; });
  auto* tasks = static_cast<Task*>(pool.scratch(-1, static_cast<size_t>(count) * sizeof(Task)));
  count = 0;
  for_each_task(a, [&](const Task& task) { tasks[count++] = task; });
  pool.parallel_for(count, [&](int64_t chunk, int worker) {
    if (tasks[chunk].lanes <= kFewLanes) {
      run_few(a, tasks[chunk], pool, worker);
    } else {
      run_many(a, tasks[chunk], pool, worker);
    }
  });
}

}  // namespace shunt::host
