// Rules that linear, routed_linear and grouped_linear share. Numbers are the ops' own rule labels.
#pragma once

#include "ir/ops/check.h"

namespace shunt::ir {

/// C3: glu needs an even number of weight rows; returns N', the result's columns.
Dim check_columns(const Op& op, const Type& weight, bool glu);
/// C4: the epilogue parses, uses acc (with glu: gate, up) and every extra operand from
/// `first_extra` on; with glu it is not empty. C5: out is real.
void check_epilogue(const Op& op, const std::string& epilogue, bool glu, DType out,
                    size_t first_extra);
/// Multiply-adds of `rows` result rows, and the epilogue.
Dim linear_flops(const Op& op, const Dim& rows, const Type& weight, const std::string& epilogue);

}  // namespace shunt::ir
