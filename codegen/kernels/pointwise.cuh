// pointwise and glu: the expression comes as Config::apply, generated from the op's Expr.
//
// Config of pointwise: Out, kCols, kVec, kThreads, kBroadcast (two bits an operand, see Broadcast),
// static float apply(float x0, float x1, ...). Of glu: X, Out, kCols (of the result), kVec,
// kThreads, static float apply(float gate, float up).
#pragma once

#include "common/common.cuh"

namespace shunt {

/// How operand i is found at (row, col): at both, at col ([N]), or at row ([.., 1]).
enum Broadcast { kFull = 0, kColumn = 1, kRow = 2 };

template <int... kIndex>
struct Indices {};
template <int kCount, int... kIndex>
struct MakeIndices : MakeIndices<kCount - 1, kCount - 1, kIndex...> {};
template <int... kIndex>
struct MakeIndices<0, kIndex...> {
  using type = Indices<kIndex...>;
};

template <class C, int kIndex, class X>
__device__ __forceinline__ Vec<float, C::kVec> pointwise_operand(const X* x, int64 row, int col) {
  constexpr int kKind = static_cast<int>((static_cast<uint64>(C::kBroadcast) >> (2 * kIndex)) & 3);
  if constexpr (kKind == kFull) return to_float(load<C::kVec>(x + row * C::kCols + col));
  if constexpr (kKind == kColumn) return to_float(load<C::kVec>(x + col));
  Vec<float, C::kVec> result;
  if constexpr (kKind == kRow) {
    const float value = to_float(x[row]);
#pragma unroll
    for (int i = 0; i < C::kVec; ++i) result[i] = value;
  }
  return result;
}

template <class C, int... kIndex, class... X>
__device__ __forceinline__ void pointwise_vector(Indices<kIndex...>, typename C::Out* out,
                                                 int64 row, int col, const X*... x) {
  const Vec<float, C::kVec> values[] = {pointwise_operand<C, kIndex>(x, row, col)...};
  Vec<float, C::kVec> result;
#pragma unroll
  for (int i = 0; i < C::kVec; ++i) result[i] = C::apply(values[kIndex][i]...);
  store(out + row * C::kCols + col, from_float<typename C::Out>(result));
}

/// out[rows, kCols] = apply(x0, x1, ...); a thread a vector.
template <class C, class... X>
__device__ __forceinline__ void pointwise(typename C::Out* out, int rows, const X*... x) {
  constexpr int kVectors = C::kCols / C::kVec;
  wait_for_predecessor();
  launch_dependents();
  const int64 i = static_cast<int64>(blockIdx.x) * C::kThreads + threadIdx.x;
  const int64 row = i / kVectors;
  if (row >= rows) return;
  const int col = static_cast<int>(i - row * kVectors) * C::kVec;
  pointwise_vector<C>(typename MakeIndices<sizeof...(X)>::type{}, out, row, col, x...);
}

/// out[rows, kCols] = apply(x[:, :kCols], x[:, kCols:]).
template <class C>
__device__ __forceinline__ void glu(typename C::Out* out, const typename C::X* x, int rows) {
  constexpr int kVectors = C::kCols / C::kVec;
  wait_for_predecessor();
  launch_dependents();
  const int64 i = static_cast<int64>(blockIdx.x) * C::kThreads + threadIdx.x;
  const int64 row = i / kVectors;
  if (row >= rows) return;
  const int col = static_cast<int>(i - row * kVectors) * C::kVec;
  const typename C::X* at = x + row * 2 * C::kCols + col;
  const Vec<float, C::kVec> gate = to_float(load<C::kVec>(at));
  const Vec<float, C::kVec> up = to_float(load<C::kVec>(at + C::kCols));
  Vec<float, C::kVec> result;
#pragma unroll
  for (int j = 0; j < C::kVec; ++j) result[j] = C::apply(gate[j], up[j]);
  store(out + row * C::kCols + col, from_float<typename C::Out>(result));
}

}  // namespace shunt
