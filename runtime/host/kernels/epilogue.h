// The expression behind a matmul or pointwise op, applied to a piece of one result row.
#pragma once

#include <array>

#include "runtime/host/kernels/args.h"

namespace shunt::host {

struct ExtraOperand {
  Weight value;
  HostOperandMode mode = HostOperandMode::vector;
};

struct Epilogue {
  const HostExpr* expr = nullptr;  // nullptr: the accumulator itself
  int count = 0;
  std::array<ExtraOperand, kMaxHostOperands> extras;
  int64_t columns = 0;  // of the result

  /// out[n] for columns [column, column + n) of `row`; acc (with glu: gate) and up are the
  /// products. `expert` picks the row of per_expert operands. out may be acc.
  void apply(int64_t row, int64_t expert, int64_t column, int64_t n, const float* acc,
             const float* up, float* out) const;

 private:
  const float* extra(int index, int64_t row, int64_t expert, int64_t column, int64_t n,
                     float* buffer) const;
};

/// Reads "count, (p, dtype, mode)[count]", the end of an argument list.
void read_extras(Args& args, Epilogue& epilogue);

}  // namespace shunt::host
