// Loops over arrays: functions of one and two numbers, conversions, reductions. Included by table.h
// only.
#pragma once

#include "runtime/host/simd/math.h"

namespace shunt::host::SHUNT_ISA {

// A function of vectors over arrays, the last part of a vector included.
#define SHUNT_LOOP1(name, expression)                        \
  void name##_loop(float* out, const float* in, int64_t n) { \
    int64_t i = 0;                                           \
    for (; i + kLanes <= n; i += kLanes) {                   \
      const vf x = load(in + i);                             \
      store(out + i, expression);                            \
    }                                                        \
    if (i < n) {                                             \
      const vf x = load_part(in + i, n - i);                 \
      store_part(out + i, expression, n - i);                \
    }                                                        \
  }
#define SHUNT_LOOP2(name, expression)                                           \
  void name##_loop(float* out, const float* in1, const float* in2, int64_t n) { \
    int64_t i = 0;                                                              \
    for (; i + kLanes <= n; i += kLanes) {                                      \
      const vf a = load(in1 + i), b = load(in2 + i);                            \
      store(out + i, expression);                                               \
    }                                                                           \
    if (i < n) {                                                                \
      const vf a = load_part(in1 + i, n - i), b = load_part(in2 + i, n - i);    \
      store_part(out + i, expression, n - i);                                   \
    }                                                                           \
  }

SHUNT_LOOP1(neg, -x)
SHUNT_LOOP1(silu, silu(x))
SHUNT_LOOP1(gelu_tanh,
            0.5f * x * (1.0f + tanh(0.79788456080286535588f * fma(0.044715f * x * x, x, x))))
SHUNT_LOOP1(quick_gelu, x / (1.0f + exp(-1.702f * x)))
SHUNT_LOOP1(relu, x > splat(0.0f) ? x : splat(0.0f))
SHUNT_LOOP1(sigmoid, sigmoid(x))
SHUNT_LOOP1(softplus, softplus(x))
SHUNT_LOOP1(tanh, tanh(x))
SHUNT_LOOP1(exp, exp(x))
SHUNT_LOOP1(sqrt, sqrt(x))
SHUNT_LOOP1(rsqrt, 1.0f / sqrt(x))
SHUNT_LOOP1(abs, abs(x))
/// The exact form has no vector version: no family with a hot path uses it.
void gelu_loop(float* out, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678118654752440f));
}

SHUNT_LOOP2(add, a + b)
SHUNT_LOOP2(sub, a - b)
SHUNT_LOOP2(mul, a* b)
SHUNT_LOOP2(div, a / b)
SHUNT_LOOP2(min, min(a, b))
SHUNT_LOOP2(max, max(a, b))
SHUNT_LOOP2(silu_mul, silu(a) * b)

#undef SHUNT_LOOP1
#undef SHUNT_LOOP2

void axpy(float* out, float scale, const float* x, int64_t n) {
  const vf s = splat(scale);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, fma(s, load(x + i), load(out + i)));
  if (i < n) store_part(out + i, fma(s, load_part(x + i, n - i), load_part(out + i, n - i)), n - i);
}

void scale_weight(float* out, const float* x, float scale, const float* weight, float shift,
                  int64_t n) {
  const vf s = splat(scale), one = splat(shift);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i) * s * (load(weight + i) + one));
  if (i < n) {
    const vf w = load_part(weight + i, n - i) + one;
    store_part(out + i, load_part(x + i, n - i) * s * w, n - i);
  }
}

template <class Load>
void convert_loop(float* out, const void* x, int64_t n) {
  const auto* in = static_cast<const typename Load::T*>(x);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, Load::load(in + i));
  if (i < n) store_part(out + i, Load::load_part(in + i, n - i), n - i);
}

void to_f32(float* out, const void* x, DType dtype, int64_t n) {
  switch (dtype) {
    case DType::bf16: return convert_loop<Bf16>(out, x, n);
    case DType::f16: return convert_loop<F16>(out, x, n);
    default: return convert_loop<F32>(out, x, n);
  }
}

float sum(const float* x, int64_t n) {
  vf s0 = {}, s1 = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    s0 += load(x + i);
    s1 += load(x + i + kLanes);
  }
  for (; i + kLanes <= n; i += kLanes) s0 += load(x + i);
  if (i < n) s1 += load_part(x + i, n - i);
  return sum_lanes(s0 + s1);
}

float sum_squares(const float* x, float mean, int64_t n) {
  const vf m = splat(mean);
  vf s0 = {}, s1 = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const vf a = load(x + i) - m, b = load(x + i + kLanes) - m;
    s0 = fma(a, a, s0);
    s1 = fma(b, b, s1);
  }
  for (; i + kLanes <= n; i += kLanes) {
    const vf a = load(x + i) - m;
    s0 = fma(a, a, s0);
  }
  float tail = 0;
  for (; i < n; ++i) tail += (x[i] - mean) * (x[i] - mean);
  return sum_lanes(s0 + s1) + tail;
}

float max_of(const float* x, int64_t n) {
  float top = -std::numeric_limits<float>::infinity();
  int64_t i = 0;
  if (n >= kLanes) {
    vf best = load(x);
    for (i = kLanes; i + kLanes <= n; i += kLanes) best = max(best, load(x + i));
    top = max_lanes(best);
  }
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

float exp_sum(float* out, const float* x, float shift, int64_t n) {
  const vf s = splat(shift);
  vf total = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vf e = exp_negative(load(x + i) - s);
    store(out + i, e);
    total += e;
  }
  float tail = 0;
  if (i < n) {
    const vf e = exp_negative(load_part(x + i, n - i) - s);
    for (int64_t j = 0; j < n - i; ++j) {
      out[i + j] = e[j];
      tail += e[j];
    }
  }
  return sum_lanes(total) + tail;
}

}  // namespace shunt::host::SHUNT_ISA
