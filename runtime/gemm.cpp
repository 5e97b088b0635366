// cuBLASLt behind gemm.h. cuBLASLt is column-major: the row-major d = x . w^T is its D^T = w . x^T
// with w transposed, so A is w, B is x, and cuBLASLt's "m" is our n. Tested by the GPU tests of
// kernels that lower to a matmul.
#include "runtime/gemm.h"

#include <cublasLt.h>
#include <fmt/format.h>

#include <bit>
#include <vector>

#include "ir/error.h"

namespace shunt {

namespace {

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw DeviceError(fmt::format("{}: {}", call, cublasLtGetStatusString(status)));
  }
}

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return CUDA_R_32F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    default: break;
  }
  internal_error(__FILE__, __LINE__, "no cuBLASLt product of {}", dtype_name(dtype));
}

void destroy_op(void* p) { cublasLtMatmulDescDestroy(static_cast<cublasLtMatmulDesc_t>(p)); }
void destroy_layout(void* p) {
  cublasLtMatrixLayoutDestroy(static_cast<cublasLtMatrixLayout_t>(p));
}
void destroy_preference(void* p) {
  cublasLtMatmulPreferenceDestroy(static_cast<cublasLtMatmulPreference_t>(p));
}
using OpHandle = Handle<destroy_op>;
using LayoutHandle = Handle<destroy_layout>;
using PreferenceHandle = Handle<destroy_preference>;

cublasLtMatmulDesc_t raw(const OpHandle& h) { return static_cast<cublasLtMatmulDesc_t>(h.get()); }
cublasLtMatrixLayout_t raw(const LayoutHandle& h) {
  return static_cast<cublasLtMatrixLayout_t>(h.get());
}

template <class T>
void set(const OpHandle& op, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublasLtMatmulDescSetAttribute(raw(op), attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
}

LayoutHandle make_layout(DType dtype, int64_t rows, int64_t columns) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, cuda_type(dtype), static_cast<uint64_t>(rows),
                                   static_cast<uint64_t>(columns), rows),
        "cublasLtMatrixLayoutCreate");
  return LayoutHandle(layout);
}

void set_columns(const LayoutHandle& layout, int64_t columns) {
  const auto value = static_cast<uint64_t>(columns);
  check(cublasLtMatrixLayoutSetAttribute(raw(layout), CUBLASLT_MATRIX_LAYOUT_COLS, &value,
                                         sizeof(value)),
        "cublasLtMatrixLayoutSetAttribute");
}

/// The power-of-two range of m: bucket b holds (2^(b-1), 2^b].
int bucket_of(int64_t m) { return m <= 1 ? 0 : std::bit_width(static_cast<uint64_t>(m - 1)); }

struct Entry {
  GemmShape shape;
  OpHandle op;
  LayoutHandle a, b, d;  // w [k, n], x [k, m], d (and c) [n, m], all column-major
  std::vector<cublasLtMatmulAlgo_t> algorithms;  // a bucket each

  explicit Entry(const GemmShape& s)
      : shape(s),
        a(make_layout(s.x_type, s.k, s.n)),
        b(make_layout(s.x_type, s.k, 1)),
        d(make_layout(s.d_type, s.n, 1)) {
    cublasLtMatmulDesc_t desc = nullptr;
    // CUBLAS_COMPUTE_32F: float32 products stay float32 (no TF32).
    check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    op = OpHandle(desc);
    set(op, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(op, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    if (s.has_bias) {
      set(op, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(s.d_type));
    }
  }
};

template <class T>
void prefer(const PreferenceHandle& p, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  check(cublasLtMatmulPreferenceSetAttribute(static_cast<cublasLtMatmulPreference_t>(p.get()),
                                             attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute");
}

PreferenceHandle make_preference(const GemmShape& s) {
  cublasLtMatmulPreference_t raw_preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&raw_preference), "cublasLtMatmulPreferenceCreate");
  PreferenceHandle p(raw_preference);
  prefer(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(s.workspace_bytes));
  prefer(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(s.w_alignment));
  prefer(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(s.x_alignment));
  prefer(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(s.d_alignment));
  prefer(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(s.d_alignment));
  return p;
}

}  // namespace

struct Gemm::Impl {
  cublasLtHandle_t handle = nullptr;
  std::vector<std::unique_ptr<Entry>> entries;
  int64_t queries = 0;

  cublasLtMatmulAlgo_t choose(Entry& e, int64_t m, const PreferenceHandle& preference) {
    set_columns(e.b, m);
    set_columns(e.d, m);
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    ++queries;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, raw(e.op), raw(e.a), raw(e.b), raw(e.d), raw(e.d),
        static_cast<cublasLtMatmulPreference_t>(preference.get()), 1, &result, &found);
    if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
      throw DeviceError(fmt::format(
          "cublasLtMatmulAlgoGetHeuristic: no algorithm for m={} n={} k={} {} -> {} in {} "
          "bytes of workspace ({})",
          m, e.shape.n, e.shape.k, dtype_name(e.shape.x_type), dtype_name(e.shape.d_type),
          e.shape.workspace_bytes, cublasLtGetStatusString(status)));
    }
    return result.algo;
  }
};

Gemm::Gemm() : impl_(std::make_unique<Impl>()) {
  check(cublasLtCreate(&impl_->handle), "cublasLtCreate");
}

Gemm::~Gemm() {
  impl_->entries.clear();
  cublasLtDestroy(impl_->handle);
}

int Gemm::prepare(const GemmShape& shape, int64_t max_m) {
  auto& entries = impl_->entries;
  size_t index = 0;
  while (index < entries.size() && !(entries[index]->shape == shape)) ++index;
  if (index == entries.size()) entries.push_back(std::make_unique<Entry>(shape));
  Entry& e = *entries[index];
  const PreferenceHandle preference = make_preference(shape);
  for (int b = static_cast<int>(e.algorithms.size()); b <= bucket_of(max_m); ++b) {
    // At the bucket's full size, so that a later, larger max_m finds the same choice.
    e.algorithms.push_back(impl_->choose(e, int64_t{1} << b, preference));
  }
  return static_cast<int>(index);
}

int64_t Gemm::queries() const { return impl_->queries; }
int64_t Gemm::shapes() const { return static_cast<int64_t>(impl_->entries.size()); }

void Gemm::run(int shape, int64_t m, const GemmOperands& o, Stream& stream) {
  Entry& e = *impl_->entries[static_cast<size_t>(shape)];
  const auto bucket = static_cast<size_t>(bucket_of(m));
  SHUNT_CHECK(bucket < e.algorithms.size(), "a product of {} rows was not prepared", m);
  set_columns(e.b, m);
  set_columns(e.d, m);
  if (e.shape.has_bias) set(e.op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, o.bias);
  const float alpha = 1, beta = e.shape.has_c ? 1 : 0;
  const void* c = e.shape.has_c ? o.c : o.d;
  check(cublasLtMatmul(impl_->handle, raw(e.op), &alpha, o.w, raw(e.a), o.x, raw(e.b), &beta, c,
                       raw(e.d), o.d, raw(e.d), &e.algorithms[bucket], o.workspace,
                       static_cast<size_t>(e.shape.workspace_bytes),
                       static_cast<cudaStream_t>(stream.get())),
        "cublasLtMatmul");
}

}  // namespace shunt
