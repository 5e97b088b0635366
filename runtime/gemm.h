// Matrix products through cuBLASLt: d[m, n] = x[m, k] . w[n, k]^T (+ c[m, n]) (+ bias[n]),
// row-major, float32 accumulation, no TF32. Algorithms come from cuBLASLt's heuristic, asked once a
// shape and power-of-two range of m.
#pragma once

#include <cstdint>
#include <memory>

#include "ir/types.h"
#include "runtime/device.h"

namespace shunt {

/// What distinguishes one kind of product from another. Alignments are of the addresses, in bytes
/// (256 at most).
struct GemmShape {
  DType x_type = DType::bf16;  // of w too
  DType d_type = DType::bf16;  // of c and bias too
  int64_t n = 0, k = 0;
  bool has_c = false, has_bias = false;
  int64_t x_alignment = 256, w_alignment = 256, d_alignment = 256;
  int64_t workspace_bytes = 0;
  bool operator==(const GemmShape&) const = default;
};

struct GemmOperands {
  const void* x = nullptr;     // [m, k]
  const void* w = nullptr;     // [n, k]
  const void* c = nullptr;     // [m, n], or null
  const void* bias = nullptr;  // [n], or null
  void* d = nullptr;           // [m, n]; may be c
  void* workspace = nullptr;
};

/// One cuBLASLt handle and its chosen algorithms. Not thread-safe.
class Gemm {
 public:
  Gemm();
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// Chooses algorithms for all m in [1, max_m] and returns the shape's number for run(). Equal
  /// shapes share it. Throws DeviceError if cuBLASLt has none that fits the workspace.
  int prepare(const GemmShape& shape, int64_t max_m);
  /// Heuristic queries made so far, and the shapes they were for.
  int64_t queries() const;
  int64_t shapes() const;
  /// Queues one product; `m` at most the greatest max_m prepared. Does not allocate; may be
  /// captured.
  void run(int shape, int64_t m, const GemmOperands& operands, Stream& stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shunt
