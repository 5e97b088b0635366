// eval_ of the norms. Tested by tests/ir/evaluator_test.cpp.
#include "ir/reference/math.h"
#include "ir/reference/op_call.h"

namespace shunt::ir {

void layer_norm_row(const float* x, const float* weight, const float* bias, int64_t n, double eps,
                    bool plus_one, float* out) {
  double mean = 0, variance = 0;
  for (int64_t c = 0; c < n; ++c) mean += x[c];
  mean /= static_cast<double>(n);
  for (int64_t c = 0; c < n; ++c) variance += (x[c] - mean) * (x[c] - mean);
  const double scale = 1 / std::sqrt(variance / static_cast<double>(n) + eps);
  for (int64_t c = 0; c < n; ++c) {
    const double w = plus_one ? 1.0 + weight[c] : weight[c];
    out[c] = static_cast<float>((x[c] - mean) * scale * w + (bias == nullptr ? 0.0f : bias[c]));
  }
}

void eval_rms_norm(OpCall& call) {
  const auto& a = call.attrs<NormAttrs>();
  const Tensor& x = call.in(0);
  for (int64_t r = 0; r < x.rows(); ++r) {
    rms_norm_row(x.row(r), call.in(1).row(0), x.last(), a.eps, a.plus_one, call.out().row(r));
  }
}

void eval_layer_norm(OpCall& call) {
  const auto& a = call.attrs<NormAttrs>();
  const Tensor& x = call.in(0);
  const float* bias = call.find(2) != nullptr ? call.in(2).row(0) : nullptr;
  for (int64_t r = 0; r < x.rows(); ++r) {
    layer_norm_row(x.row(r), call.in(1).row(0), bias, x.last(), a.eps, a.plus_one,
                   call.out().row(r));
  }
}

/// The norm reads the sum before it is rounded.
void eval_add_norm(OpCall& call) {
  const auto& a = call.attrs<AddNormAttrs>();
  Tensor& sum = call.out(0);
  for (size_t i = 0; i < sum.f.size(); ++i) sum.f[i] = call.in(0).f[i] + call.in(1).f[i];
  const float* weight = call.in(2).row(0);
  const float* bias = call.find(3) != nullptr ? call.in(3).row(0) : nullptr;
  for (int64_t r = 0; r < sum.rows(); ++r) {
    float* out = call.out(1).row(r);
    if (a.kind == NormKind::rms) {
      rms_norm_row(sum.row(r), weight, sum.last(), a.eps, a.plus_one, out);
    } else {
      layer_norm_row(sum.row(r), weight, bias, sum.last(), a.eps, a.plus_one, out);
    }
  }
}

}  // namespace shunt::ir
