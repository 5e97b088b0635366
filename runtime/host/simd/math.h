// exp, tanh and what is made of them, over one vector. Relative error of exp about 1e-7, of the
// rest below 5e-7. Included by table.h only.
#pragma once

#include "runtime/host/simd/vec.h"

namespace shunt::host::SHUNT_ISA {

/// Infinities, zero and NaN come out as of std::exp; subnormal results are kept.
SHUNT_INLINE vf exp(vf x) {
  const vf low = splat(-104.0f), high = splat(89.0f);
  x = x < low ? low : x;  // in this order NaN passes
  x = x > high ? high : x;
  const vf magic = splat(0x1.8p23f);  // adding it leaves the nearest integer in the low bits
  const vf shifted = fma(x, splat(0x1.715476p+0f), magic);
  const vf n = shifted - magic;
  const vf r =
      fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));  // x - n ln 2, in two pieces
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  const vf y = fma(p * r, r, r) + 1.0f;
  // 2^n as a product of two powers, as n may be 128 or below -126.
  const vi exponent = reinterpret_cast<vi>(shifted) - 0x4b400000;
  const vi half = exponent >> 1;
  const vf scale1 = reinterpret_cast<vf>((half + 127) << 23);
  const vf scale2 = reinterpret_cast<vf>((exponent - half + 127) << 23);
  return y * scale1 * scale2;
}

SHUNT_INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exp(-x)); }
SHUNT_INLINE vf silu(vf x) { return x / (1.0f + exp(-x)); }

/// max(x, 0) + log(1 + y) with y = exp(-|x|) in (0, 1], by log(1 + y) = 2 atanh(y / (2 + y)).
SHUNT_INLINE vf softplus(vf x) {
  const vf y = exp(-abs(x));
  const vf t = y / (2.0f + y);
  const vf z = t * t;  // at most 1/9: eight terms are exact to float32
  vf p = splat(2.0f / 17);
  p = fma(p, z, splat(2.0f / 15));
  p = fma(p, z, splat(2.0f / 13));
  p = fma(p, z, splat(2.0f / 11));
  p = fma(p, z, splat(2.0f / 9));
  p = fma(p, z, splat(2.0f / 7));
  p = fma(p, z, splat(2.0f / 5));
  p = fma(p, z, splat(2.0f / 3));
  return (x > splat(0.0f) ? x : splat(0.0f)) + fma(p * z, t, 2.0f * t);
}

SHUNT_INLINE vf tanh(vf x) {
  const vf magnitude = abs(x);
  const vf z = x * x;
  vf p = splat(-5.70498872745e-3f);
  p = fma(p, z, splat(2.06390887954e-2f));
  p = fma(p, z, splat(-5.37397155531e-2f));
  p = fma(p, z, splat(1.33314422036e-1f));
  p = fma(p, z, splat(-3.33332819422e-1f));
  const vf small = fma(p * z, x, x);
  const vf large = 1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f);
  const vf signed_large = reinterpret_cast<vf>(
      reinterpret_cast<vi>(large) | (reinterpret_cast<vi>(x) & static_cast<int32_t>(0x80000000u)));
  return magnitude < splat(0.625f) ? small : signed_large;
}

/// exp_sum's building block: exp without the second scale, for arguments <= 0 (below -87.3 the
/// result is 0).
SHUNT_INLINE vf exp_negative(vf x) {
  const vf magic = splat(0x1.8p23f);
  const vf inside = max(x, splat(-87.33f));
  const vf shifted = fma(inside, splat(0x1.715476p+0f), magic);
  const vf n = shifted - magic;
  const vf r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), inside));
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  const vf y = fma(p * r, r, r) + 1.0f;
  const vf scale = reinterpret_cast<vf>((reinterpret_cast<vi>(shifted) - 0x4b400000 + 127) << 23);
  return x < splat(-87.33f) ? splat(0.0f) : y * scale;
}

}  // namespace shunt::host::SHUNT_ISA
