// eval_ of the ops of @load. Tested by tests/ir/evaluator_test.cpp.
#include <cmath>
#include <numbers>

#include "ir/random.h"
#include "ir/reference/op_call.h"

namespace shunt::ir {

namespace {

std::vector<int64_t> sizes(const std::vector<Dim>& shape, size_t first) {
  std::vector<int64_t> out;
  for (size_t i = first; i < shape.size(); ++i) out.push_back(shape[i].constant());
  return out;
}

}  // namespace

void eval_checkpoint(OpCall& call) {
  const auto& a = call.attrs<CheckpointAttrs>();
  if (!call.options.checkpoint) user_error("no source for checkpoint tensors was given");
  const auto shape = sizes(a.shape, a.stack > 0 ? 1 : 0);
  Tensor& out = call.out();
  int64_t at = 0;
  for (int64_t n = 0; n < std::max<int64_t>(a.stack, 1); ++n) {
    std::string name = a.tensor;
    if (const size_t star = name.find('*'); star != std::string::npos)
      name.replace(star, 1, std::to_string(n));
    const Tensor part = call.options.checkpoint(name, a.dtype, shape);
    const int64_t wanted = out.elements() / std::max<int64_t>(a.stack, 1);
    SHUNT_CHECK(part.type.dtype == a.dtype && part.elements() == wanted,
                "the checkpoint source gave {} for {}", part.type.to_string(), name);
    std::copy(part.f.begin(), part.f.end(), out.f.begin() + (out.f.empty() ? 0 : at));
    std::copy(part.i.begin(), part.i.end(), out.i.begin() + (out.i.empty() ? 0 : at));
    at += wanted;
  }
}

/// Element (n, k) of matrix m is that of the payload times its group's scale, in float32.
void eval_dequantize(OpCall& call) {
  const auto& a = call.attrs<DequantizeAttrs>();
  const Tensor &payload = call.in(0), &scale = call.in(1);
  Tensor& out = call.out();
  const int64_t rows = out.size(out.type.rank() - 2), columns = out.last();
  const int64_t group_rows = scale.size(scale.type.rank() - 2), group_columns = scale.last();
  for (int64_t i = 0; i < out.elements(); ++i) {
    const int64_t m = i / (rows * columns), n = i / columns % rows, k = i % columns;
    const auto at = static_cast<size_t>(i);
    const float x = payload.type.dtype == DType::f8e4m3
                        ? payload.f[at]
                        : f32_from_e2m1(static_cast<uint8_t>(payload.i[at / 2] >> 4 * (i % 2)));
    const auto group = static_cast<size_t>((m * group_rows + n / a.group_rows) * group_columns +
                                           k / a.group_columns);
    const float s = scale.type.dtype == DType::u8
                        ? f32_from_e8m0(static_cast<uint8_t>(scale.i[group]))
                        : scale.f[group];
    out.f[at] = x * s;
  }
}

/// Element i of a dummy weight, in 64-bit unsigned arithmetic:
///   a = splitmix64(seed * 0x9E3779B97F4A7C15 + i)      b = splitmix64(a)
///   u1 = ((a >> 40) + 1) * 2^-24 in (0, 1]             u2 = (b >> 40) * 2^-24 in [0, 1)
///   value = mean + stddev * sqrt(-2 ln u1) * cos(2 pi u2), rounded to the dtype.
/// Every target uses this formula; they may differ in the last bits of ln and cos.
void eval_dummy(OpCall& call) {
  const auto& a = call.attrs<DummyAttrs>();
  Tensor& out = call.out();
  for (size_t i = 0; i < out.f.size(); ++i) {
    const uint64_t bits = splitmix64(static_cast<uint64_t>(a.seed) * 0x9E3779B97F4A7C15u + i);
    const double u1 = static_cast<double>((bits >> 40) + 1) * 0x1p-24;
    const double u2 = static_cast<double>(splitmix64(bits) >> 40) * 0x1p-24;
    const double normal = std::sqrt(-2 * std::log(u1)) * std::cos(2 * std::numbers::pi * u2);
    out.f[i] = static_cast<float>(a.mean + a.stddev * normal);
  }
}

void eval_constant(OpCall& call) {
  const auto& values = call.attrs<ConstantAttrs>().values;
  for (size_t i = 0; i < values.size(); ++i) call.out().f[i] = static_cast<float>(values[i]);
}

void eval_transpose(OpCall& call) {
  const Tensor& x = call.in(0);
  const int64_t a = x.size(x.type.rank() - 2), b = x.last();
  const int64_t matrices = a * b == 0 ? 0 : x.elements() / (a * b);
  const auto move = [&](const auto& from, auto& to) {
    for (int64_t m = 0; m < matrices; ++m) {
      for (int64_t r = 0; r < a; ++r) {
        for (int64_t c = 0; c < b; ++c) to[m * a * b + c * a + r] = from[m * a * b + r * b + c];
      }
    }
  };
  x.f.empty() ? move(x.i, call.out().i) : move(x.f, call.out().f);
}

void eval_store(OpCall& call) { *call.operands[1] = call.in(0); }

}  // namespace shunt::ir
