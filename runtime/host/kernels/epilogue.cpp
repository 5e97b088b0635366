// Entry point: Epilogue::apply. Tests: tests/runtime/host/linear_test.cpp and pointwise_test.cpp.
#include "runtime/host/kernels/epilogue.h"

#include <cstring>

namespace shunt::host {

void read_extras(Args& args, Epilogue& epilogue) {
  epilogue.count = static_cast<int>(args.integer());
  SHUNT_CHECK(epilogue.count >= 0 && epilogue.count <= kMaxHostOperands, "{} extra operands",
              epilogue.count);
  for (int i = 0; i < epilogue.count; ++i) {
    epilogue.extras[static_cast<size_t>(i)].value = read_weight(args);
    epilogue.extras[static_cast<size_t>(i)].mode = args.choice<HostOperandMode>();
  }
  args.done();
}

const float* Epilogue::extra(int index, int64_t row, int64_t expert, int64_t column, int64_t n,
                             float* buffer) const {
  const ExtraOperand& e = extras[static_cast<size_t>(index)];
  switch (e.mode) {
    case HostOperandMode::vector: return e.value.floats(column, n, buffer);
    case HostOperandMode::full: return e.value.floats(row * columns + column, n, buffer);
    case HostOperandMode::per_expert: return e.value.floats(expert * columns + column, n, buffer);
    case HostOperandMode::column: {
      float one;
      const float value = *e.value.floats(row, 1, &one);
      std::fill_n(buffer, n, value);
      return buffer;
    }
  }
  return nullptr;
}

void Epilogue::apply(int64_t row, int64_t expert, int64_t column, int64_t n, const float* acc,
                     const float* up, float* out) const {
  const auto form = expr == nullptr ? HostExpr::Form::identity : expr->form();
  if (form == HostExpr::Form::identity) {
    if (out != acc) std::memcpy(out, acc, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  if (form == HostExpr::Form::silu_gate_times_up) return simd().silu_mul(out, acc, up, n);

  alignas(64) float buffers[kMaxHostOperands][HostExpr::kBlock];
  const float* inputs[HostExpr::kPlaces] = {};
  for (int64_t at = 0; at < n; at += HostExpr::kBlock) {
    const int64_t part = std::min<int64_t>(n - at, HostExpr::kBlock);
    inputs[0] = acc == nullptr ? nullptr : acc + at;
    inputs[1] = up == nullptr ? nullptr : up + at;
    for (int i = 0; i < count; ++i)
      inputs[HostExpr::kExtras + i] = extra(i, row, expert, column + at, part, buffers[i]);
    if (form == HostExpr::Form::acc_plus_x0) {
      simd().binary[static_cast<int>(Binary::add)](out + at, inputs[0], inputs[HostExpr::kExtras],
                                                   part);
    } else {
      expr->evaluate(inputs, static_cast<int>(part), out + at);
    }
  }
}

}  // namespace shunt::host
