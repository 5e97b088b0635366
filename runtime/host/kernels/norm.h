// Row normalisation, shared by the kernels that fuse it.
#pragma once

#include <cmath>

#include "runtime/host/kernels/args.h"

namespace shunt::host {

/// out[n] = x / sqrt(mean(x^2) + eps) * (weight + shift). out may be x.
inline void rms_norm_row(float* out, const float* x, const float* weight, float shift, float eps,
                         int64_t n) {
  const Simd& v = simd();
  const float mean = v.sum_squares(x, 0.0f, n) / static_cast<float>(n);
  v.scale_weight(out, x, 1.0f / std::sqrt(mean + eps), weight, shift, n);
}

}  // namespace shunt::host
