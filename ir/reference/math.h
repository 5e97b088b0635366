// Row-wise arithmetic that several families share. Internal to ir/reference.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "ir/reference/tensor.h"

namespace shunt::ir {

/// Products of float32, summed in float64 (in eight partial sums, so that it is not slow).
inline double dot(const float* a, const float* b, int64_t n) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += static_cast<double>(a[i + j]) * b[i + j];
  }
  for (; i < n; ++i) sums[0] += static_cast<double>(a[i]) * b[i];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/// out = x / rms(x) * weight. `out` may be `x`.
inline void rms_norm_row(const float* x, const float* weight, int64_t n, double eps, bool plus_one,
                         float* out) {
  const double scale = 1 / std::sqrt(dot(x, x, n) / static_cast<double>(n) + eps);
  for (int64_t c = 0; c < n; ++c) {
    out[c] = static_cast<float>(x[c] * scale * (plus_one ? 1.0 + weight[c] : weight[c]));
  }
}

/// out = (x - mean) / deviation * weight + bias; bias may be nullptr. `out` may be `x`.
void layer_norm_row(const float* x, const float* weight, const float* bias, int64_t n, double eps,
                    bool plus_one, float* out);

/// Rotates one head of `rotary` = 2 * inv_freq elements in place. The angle is a float32 product,
/// as in the models.
void rope_row(float* x, const Tensor& inv_freq, int32_t position, bool interleaved, double scale);

struct TopkGateAttrs;
/// One token's routing; see TopkGateAttrs. `bias` and `forced` may be nullptr; `w` and `ids` have k
/// elements.
void route_row(const TopkGateAttrs& attrs, const float* logits, int64_t experts, const float* bias,
               const int32_t* forced, float* w, int32_t* ids);

}  // namespace shunt::ir
