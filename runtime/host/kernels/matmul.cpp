// Two ways to multiply, by the rows of a group. Few: dot products against the weight as it lies in
// memory, which is read once. Many: panels of the weight are transposed to float32 and met by
// register tiles of rows. A list of tasks (group, rows, columns) is made first, so that one
// parallel loop balances over all groups. Entry point: matmul(). Test:
// tests/runtime/host/linear_test.cpp. Speed: bench/host_bench.cpp.
#include "runtime/host/kernels/matmul.h"

#include <cstring>

namespace shunt::host {
namespace {

constexpr int64_t kDotMaxRows = 16;  // above, transposing a panel pays
constexpr int64_t kTaskRows = 240;   // rows of a packed task: its results stay in the second cache
constexpr int64_t kTaskColumns = 192;  // result columns of a packed task at most
constexpr int64_t kDotColumns = 256;   // result columns of a dot task at a time, on the stack
constexpr int64_t kDepth = 128;        // of a panel: 48 columns of it fit the first cache
constexpr int64_t kTaskFlops = 65536;  // smallest task worth a hand-over, in multiply-adds

struct Task {
  int32_t group;
  int32_t columns;
  int64_t row, rows;
  int64_t column;
};

/// Row counts and column counts of tasks.
struct Split {
  int64_t wanted;  // tasks in all
  double total;    // multiply-adds in all

  Split(const MatmulJob& job, const ThreadPool& pool) {
    const int64_t rows =
        job.offsets == nullptr ? job.rows : job.offsets[job.groups] - job.offsets[0];
    total = static_cast<double>(rows) * static_cast<double>(job.n * job.k);
    wanted = pool.threads() == 1 ? 1 : 4 * pool.threads();
    wanted = std::clamp<int64_t>(static_cast<int64_t>(total / kTaskFlops), 1, wanted);
  }
  /// Column pieces of a block of rows.
  int64_t pieces(const MatmulJob& job, int64_t rows) const {
    const double share = static_cast<double>(rows) * static_cast<double>(job.n * job.k) / total;
    return std::max<int64_t>(1, static_cast<int64_t>(share * static_cast<double>(wanted) + 0.5));
  }
};

/// Calls f(task) for every task of the job.
template <class F>
void for_each_task(const MatmulJob& job, const ThreadPool& pool, F&& f) {
  const Split split(job, pool);
  const int64_t columns = job.columns();
  for (int g = 0; g < job.groups; ++g) {
    const int64_t count = job.last(g) - job.first(g);
    if (count <= 0) continue;
    const bool packed = count > kDotMaxRows;
    // Blocks of equal size, a multiple of the threads if there are several.
    int64_t blocks = packed ? ceil_div(count, kTaskRows) : 1;
    if (blocks > 1) blocks = round_up(blocks, pool.threads());
    const int64_t block = round_up(ceil_div(count, blocks), packed ? 8 : 1);
    for (int64_t row = 0; row < count; row += block) {
      const int64_t rows = std::min(block, count - row);
      int64_t width = round_up(ceil_div(columns, split.pieces(job, rows)), 16);
      if (packed) width = std::min(width, kTaskColumns);
      for (int64_t column = 0; column < columns; column += width) {
        f(Task{g, static_cast<int32_t>(std::min(width, columns - column)), job.first(g) + row, rows,
               column});
      }
    }
  }
}

int64_t count_tasks(const MatmulJob& job, const ThreadPool& pool) {
  int64_t tasks = 0;
  for_each_task(job, pool, [&](const Task&) { ++tasks; });
  return tasks;
}

const void* weight_row(const MatmulJob& job, int group, int64_t row) {
  return job.w.at((group * job.n + row) * job.k);
}

/// Few rows.
void run_dot(const MatmulJob& job, const Task& task) {
  const Simd& v = simd();
  alignas(64) float acc[8][kDotColumns];  // products of up to dot_rows rows
  alignas(64) float up[8][kDotColumns];
  for (int64_t column = task.column; column < task.column + task.columns; column += kDotColumns) {
    const int64_t n = std::min(kDotColumns, task.column + task.columns - column);
    for (int64_t row = 0; row < task.rows; row += v.dot_rows) {
      const int rows = static_cast<int>(std::min<int64_t>(v.dot_rows, task.rows - row));
      const float* x[8];
      for (int i = 0; i < rows; ++i) x[i] = job.x + job.in(task.row + row + i) * job.k;
      v.dot(x, rows, weight_row(job, task.group, column), job.w.dtype, job.k, n, job.k, acc[0],
            kDotColumns);
      if (job.glu) {
        v.dot(x, rows, weight_row(job, task.group, job.n / 2 + column), job.w.dtype, job.k, n,
              job.k, up[0], kDotColumns);
      }
      for (int i = 0; i < rows; ++i) {
        const int64_t to = job.to(task.row + row + i);
        job.epilogue.apply(to, task.group, column, n, acc[i], job.glu ? up[i] : nullptr,
                           job.out + to * job.columns() + column);
      }
    }
  }
}

/// Layout of a worker's scratch for packed tasks, in floats.
struct PackedScratch {
  int64_t panel = kDepth * 64;     // one panel, [kDepth, width]
  int64_t x = kTaskRows * kDepth;  // gathered rows, [rows, kDepth]
  int64_t ldc;                     // products: task columns (gate, then up), padded
  explicit PackedScratch(const MatmulJob& job) : ldc(kTaskColumns * (job.glu ? 2 : 1) + 16) {}
  size_t bytes() const { return static_cast<size_t>(panel + x + kTaskRows * ldc) * sizeof(float); }
};

/// One depth block of products: rows of `a` against weight rows [first, first + n), to c.
void run_panels(const MatmulJob& job, const Task& task, int64_t first, int64_t n, int64_t k0,
                int64_t kc, const float* a, int64_t a_row, float* panel, float* c, int64_t ldc) {
  const Simd& v = simd();
  for (int64_t j = 0; j < n; j += v.lanes * v.panel_vectors) {
    const int64_t here = std::min<int64_t>(n - j, v.lanes * v.panel_vectors);
    const int vectors = static_cast<int>(ceil_div(here, v.lanes));
    const int64_t width = vectors * v.lanes;
    v.pack(panel, width, weight_row(job, task.group, first + j), job.w.dtype, job.k, k0, kc, here,
           width);
    v.gemm(a, a_row, 1, task.rows, panel, width, vectors, kc, c + j, ldc, k0 > 0);
  }
}

/// Many rows.
void run_packed(const MatmulJob& job, const Task& task, float* scratch) {
  const PackedScratch layout(job);
  float* panel = scratch;
  float* gathered = panel + layout.panel;
  float* c = gathered + layout.x;
  const int64_t up =
      round_up(task.columns, simd().lanes);  // column of c where the up products begin
  const bool gather = job.divide > 0;
  for (int64_t k0 = 0; k0 < job.k; k0 += kDepth) {
    const int64_t kc = std::min(kDepth, job.k - k0);
    const float* a = job.x + task.row * job.k + k0;
    int64_t a_row = job.k;
    if (gather) {
      for (int64_t i = 0; i < task.rows; ++i) {
        std::memcpy(gathered + i * kc, job.x + job.in(task.row + i) * job.k + k0,
                    static_cast<size_t>(kc) * sizeof(float));
      }
      a = gathered;
      a_row = kc;
    }
    run_panels(job, task, task.column, task.columns, k0, kc, a, a_row, panel, c, layout.ldc);
    if (job.glu) {
      run_panels(job, task, job.n / 2 + task.column, task.columns, k0, kc, a, a_row, panel, c + up,
                 layout.ldc);
    }
  }
  for (int64_t i = 0; i < task.rows; ++i) {
    const int64_t to = job.to(task.row + i);
    const float* products = c + i * layout.ldc;
    job.epilogue.apply(to, task.group, task.column, task.columns, products,
                       job.glu ? products + up : nullptr,
                       job.out + to * job.columns() + task.column);
  }
}

}  // namespace

void matmul(const MatmulJob& job, ThreadPool& pool) {
  auto* tasks = static_cast<Task*>(
      pool.scratch(-1, static_cast<size_t>(count_tasks(job, pool)) * sizeof(Task)));
  int64_t count = 0;
  for_each_task(job, pool, [&](const Task& task) { tasks[count++] = task; });
  if (job.k == 0) SHUNT_CHECK(count == 0, "a matmul over nothing");
  const size_t bytes = PackedScratch(job).bytes();
  pool.parallel_for(count, [&](int64_t chunk, int worker) {
    const Task& task = tasks[chunk];
    const int64_t group_rows = job.last(task.group) - job.first(task.group);
    if (group_rows > kDotMaxRows) {
      run_packed(job, task, static_cast<float*>(pool.scratch(worker, bytes)));
    } else {
      run_dot(job, task);
    }
  });
}

}  // namespace shunt::host
